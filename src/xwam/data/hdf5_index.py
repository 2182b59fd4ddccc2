"""Where the episodes of HDF5 files lie: their files, groups, lengths and words.

A file is one episode (ALOHA, RoboTwin), or holds many: in the groups of ``data`` (robomimic, LIBERO, RoboCasa), or in
numbered groups at its root (``traj_0``).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from xwam.data.folders import walk
from xwam.data.hdf5_words import MANY, PLACES, control_hz, task_of, where, words_of
from xwam.data.recorded import Row, is_success
from xwam.robot.layout import same_rate
from xwam.strict_json import suggest

if TYPE_CHECKING:
    import h5py

SUFFIXES = (".hdf5", ".h5", ".hdf")
MOST_SPARE = 1  # rows by which columns may differ: often one state more than actions


@dataclass(frozen=True, kw_only=True)
class GroupRow(Row):
    """An episode: its group in the file."""

    group: str


def hdf5_files(root: Path) -> list[Path]:
    """The HDF5 files of a data set (one file, or all below a folder), numbers in their names in counting order.

    Links are followed; names that begin with a dot are left out.
    """
    if root.is_file():
        return [root] if root.suffix.lower() in SUFFIXES else []
    found = []
    for folder, folders, files in walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [folder / name for name in files if not name.startswith(".")]
    chosen = (path for path in found if path.suffix.lower() in SUFFIXES)
    return sorted(chosen, key=lambda path: counting(str(path.relative_to(root))))


def counting(name: str) -> list[tuple[int, str]]:
    """A key that sorts demo_2 before demo_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


@contextmanager
def opened(path: Path) -> Iterator["h5py.File"]:
    """A file to read. Raises ValueError when it is damaged (also later, while it is read), ImportError without h5py."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path.name} is HDF5: pip install 'xwam[hdf5]'") from error
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no such file; copy the data set again.")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except BlockingIOError as error:
        raise ValueError(
            f"hdf5={path}: another program is writing it ({error}); wait until it has closed it."
        ) from error
    except PermissionError:
        raise
    except OSError as error:
        raise ValueError(f"hdf5={path}: cannot be read ({error}); the file is damaged: copy it again.") from error


@contextmanager
def opened_episode(row: GroupRow) -> Iterator["h5py.Group"]:
    """An episode's group, to read."""
    with opened(row.data) as file:
        yield group_at(file, row.group)


def read_rows(paths: Sequence[Path], keys: Sequence[str], fps: float, instruction: str | None) -> list[GroupRow]:
    """All episodes of all files; ``instruction``: for those without words.

    Raises ValueError where a key or the words are missing, where an episode is empty, or where files were recorded at
    another rate, or are of other widths than the first.
    """
    rows: list[GroupRow] = []
    widths: dict[str, int] = {}
    for path in paths:
        with opened(path) as file:
            rate = control_hz(file)
            if rate is not None and not same_rate(rate, fps):
                raise ValueError(
                    f"{path.name} was recorded with control_freq={rate:g}: robot.json says action_hz times "
                    f"frames_per_action is {fps:g}; correct it."
                )
            for group in groups_of(file):
                columns = {key: column_of(group, key) for key in keys}
                found = {key: _width(column) for key, column in columns.items()}
                widths = widths or found
                rows.append(_row(group, path, len(rows), _length(group, columns), instruction))
                if found != widths:
                    raise ValueError(f"{where(group)} has columns of widths {found}, the first episode {widths}.")
    return rows


def rate_of(path: Path) -> float | None:
    """Frames per second, where a file says it."""
    with opened(path) as file:
        return control_hz(file)


def group_at(file: "h5py.File | h5py.Group", name: str) -> "h5py.Group":
    """A group by name. Raises ValueError when it is none."""
    import h5py

    found = file.get(name)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"group={name!r} is not in {file.file.filename}: the file changed; open the data set again.")
    return found


def groups_of(file: "h5py.File") -> list["h5py.Group"]:
    """The episodes of a file."""
    import h5py

    many = file.get(MANY)
    if isinstance(many, h5py.Group) and (groups := _subgroups(many)):
        return groups
    groups = _subgroups(file)
    is_numbered = len(groups) == len(file) and all(str(group.name)[-1].isdecimal() for group in groups)
    return groups if groups and is_numbered else [group_at(file, "/")]


def _subgroups(parent: "h5py.Group") -> list["h5py.Group"]:
    import h5py

    return [group_at(parent, name) for name in sorted(parent, key=counting) if isinstance(parent[name], h5py.Group)]


def find_column(group: "h5py.Group", key: str) -> "h5py.Dataset | None":
    """A data set with rows inside an episode's group; None when it is not there."""
    import h5py

    found = group.get(key.lstrip("/"))
    return found if isinstance(found, h5py.Dataset) and found.ndim >= 1 else None


def column_of(group: "h5py.Group", key: str) -> "h5py.Dataset":
    """The same. Raises ValueError, with the names that come near, when it is not there."""
    found = find_column(group, key)
    if found is None:
        raise ValueError(f"key={key!r} is not in {where(group)}: {suggest(key, names_in(group))}")
    return found


def names_in(group: "h5py.Group") -> list[str]:
    """The keys of everything in an episode's group that has rows (but for links)."""
    import h5py

    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 1:
            found.append(name)

    group.visititems(visit)
    return found


def widths_in(group: "h5py.Group", keys: Sequence[str]) -> dict[str, int]:
    """How many numbers each row of these columns holds, and of all others in the group 0."""
    return dict.fromkeys(names_in(group), 0) | {key: _width(column_of(group, key)) for key in keys}


def read_columns(group: "h5py.Group", keys: Sequence[str], length: int) -> dict[str, Float32[np.ndarray, "_N _n"]]:
    """The first rows of these columns as ``rows x width``. Raises ValueError for what is no number."""
    columns = {}
    for key in keys:
        column = column_of(group, key)
        if column.dtype.kind not in "fiub":
            raise ValueError(f"key={key!r} in {where(group)} has dtype={column.dtype}: must be numbers.")
        columns[key] = np.asarray(column[:length]).reshape(-1, _width(column)).astype(np.float32)
    return columns


def some_bytes(group: "h5py.Group", key: str, rows: Iterable[slice]) -> bytes:
    """These rows as they are stored; of a column that is missing, or shorter, what there is."""
    column = find_column(group, key)
    if column is None:
        return b""
    return b"".join(bytes_of(one) for some in rows for one in column[some])


def bytes_of(one: Any) -> bytes:
    """A row as bytes: numbers, a picture file that is bytes, or one that is numbers (of any length)."""
    return one if isinstance(one, bytes) else np.asarray(one).tobytes()


def _width(column: "h5py.Dataset") -> int:
    return int(np.prod(column.shape[1:]))


def _length(group: "h5py.Group", columns: Mapping[str, "h5py.Dataset"]) -> int:
    """The rows that all columns have. Raises ValueError when there are none, or when they differ by more than one."""
    counts = {key: len(column) for key, column in columns.items()}
    if min(counts.values()) == 0:
        raise ValueError(f"{where(group)} is empty ({counts}): leave it out.")
    if max(counts.values()) - min(counts.values()) > MOST_SPARE:
        raise ValueError(
            f"{where(group)} has columns of different lengths ({counts}): they belong together row by row."
        )
    return min(counts.values())


def _row(group: "h5py.Group", path: Path, number: int, length: int, instruction: str | None) -> GroupRow:
    words = words_of(group, path, number) or instruction or ""
    if not words.strip():
        raise ValueError(f"{where(group)} has no words ({PLACES}): give robot.json an instruction.")
    return GroupRow(
        length=length,
        instruction=words,
        task=task_of(path) or words,
        data=path,
        success=is_success(group.attrs.get("success"), f"{where(group)} attribute"),
        group=str(group.name),
    )
