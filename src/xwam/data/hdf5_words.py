"""What the robot should do, in HDF5 files: each project puts its words elsewhere."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import h5py

MANY = "data"  # the group whose members are episodes, where a file holds many
WORDS = ("language_instruction", "instruction", "lang", "task_description")  # attributes or columns
WAYS = ("demo", "clean", "randomized")  # in RoboTwin's names of folders: how a task was recorded
WORDS_FOLDER = "instructions"  # beside the folder of the files: <file's name>.json
PLACES = f"{', '.join(WORDS)}; ep_meta; problem_info; {WORDS_FOLDER}/<file>.json"


def words_of(group: "h5py.Group", path: Path, number: int) -> str | None:
    """An episode's words; None when there are none.

    RoboTwin has many wordings of an episode: each episode takes another one, by its ``number`` in the data set. Raises
    ValueError for broken JSON or text.
    """
    return next((words for words in _found(group, path, number) if words), None)


def task_of(path: Path) -> str | None:
    """Where there are many wordings, the folder says what is the same task (``lift_pot``); None where there are not.

    It may be recorded in several ways, in a folder each (``lift_pot/demo_clean``); folders of other names count whole.
    """
    if not _beside(path).is_file():
        return None
    folder = path.parent.parent.resolve()
    is_way = any(name in folder.name for name in WAYS)
    return folder.parent.name if is_way else "/".join(folder.parts[-2:])


def control_hz(file: "h5py.File") -> float | None:
    """Actions per second, where robomimic's env_args say it."""
    rate = (_json(file, MANY, "env_args").get("env_kwargs") or {}).get("control_freq")
    return None if rate is None else float(rate)


def _found(group: "h5py.Group", path: Path, number: int) -> Iterator[str | None]:
    """What stands in all known places, the nearest first: the episode's own, its file's, the file beside."""
    import h5py

    yield _text(_json(group, ".", "ep_meta").get("lang"), group)
    for name in WORDS:
        yield _text(group.attrs.get(name), group)
        column = group.get(name)
        if isinstance(column, h5py.Dataset):
            yield _text(column[()] if column.size else None, group)
    yield _text(_json(group.file, MANY, "problem_info").get("language_instruction"), group)
    for place in (MANY, "/"):
        if place in group.file:
            for name in WORDS:
                yield _text(group.file[place].attrs.get(name), group)
    if _beside(path).is_file():
        try:
            wordings = json.loads(_beside(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{_beside(path)} is no JSON ({error}): correct it.") from error
        wordings = wordings.get("seen", []) if isinstance(wordings, dict) else wordings
        yield _text(wordings[number % len(wordings)] if wordings else None, group)


def _beside(path: Path) -> Path:
    return path.parent.parent / WORDS_FOLDER / f"{path.stem}.json"


def _json(group: "h5py.Group", place: str, name: str) -> dict[str, Any]:
    """An attribute that is a JSON object; empty when there is none."""
    value = group[place].attrs.get(name) if place in group or place == "." else None
    text = _text(value, group)
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise ValueError(f"{where(group)} attribute {name!r} is no JSON ({error}): correct it.") from error
    return found if isinstance(found, dict) else {}


def _text(value: Any, group: "h5py.Group") -> str | None:
    """One text without spaces and a pair of quotes around it; the first of several; None for what is no text."""
    if isinstance(value, list):  # letters, in some files of LIBERO
        value = "".join(value) if all(isinstance(one, str) and len(one) == 1 for one in value) else value[:1]
    if isinstance(value, np.ndarray | list):
        values = np.asarray(value, dtype=object).ravel()
        value = values[0] if len(values) else None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where(group)} has words that are not UTF-8 ({error}): write them again.") from error
    if not isinstance(value, str):
        return None
    text = value.strip()
    return (text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text) or None


def where(group: "h5py.Group") -> str:
    """For messages: the file and the group."""
    return f"{Path(group.file.filename).name} group={group.name!r}"
