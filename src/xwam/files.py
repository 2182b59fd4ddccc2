"""Files: written whole or not at all, claimed by one process, remembered a while, and known by a fingerprint."""

import errno
import hashlib
import json
import math
import os
import secrets
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)  # what file systems without locks answer
UMASK = os.umask(0)  # there is no way to ask but to set it
os.umask(UMASK)
TAIL_BYTES = 65536  # mp4 and parquet keep their index there: sizes and places of all content


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; renamed to ``path`` at the end, removed if anything fails.

    The temporary name ends in ``.tmp``, so no reader that looks for ``*.parquet`` or ``*.mp4`` takes it for a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~UMASK)  # some libraries write for their own user alone
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flush(folder: Path, *, inside: bool = True) -> None:
    """Wait until the names in a folder (and all files inside) are on the disk: then power may fail."""
    files = [path for path in folder.rglob("*") if path.is_file()] if inside else []
    for path in (*files, folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all (UTF-8)."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """A JSON file, whole or not at all; a number that is none (NaN, infinite) is null, which every reader knows."""
    write_text(path, json.dumps(_only_numbers(content), indent=1) + "\n")


def as_json(content: Any) -> Any:
    """The same in JSON's own types: tuples become lists, keys become text."""
    return json.loads(json.dumps(content))


def _only_numbers(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _only_numbers(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_only_numbers(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """True for the one process that holds this (empty) file; the claim ends with the process, however it ends.

    Without locks it is true for all, and a warning says so.
    """
    import fcntl  # not on Windows

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            yield False
            return
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            text = f"{path.parent}: its file system has no locks ({error.strerror}): processes may do the same twice."
            warnings.warn(text, stacklevel=2)
        yield True


def read_arrays(path: Path, made_by: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. Raises FileNotFoundError, or ValueError for a file that is none."""
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no such file; {made_by} writes one.")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, TypeError, AttributeError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"path={path} is no file that {made_by} wrote (.npz).") from error


def folder_of(root: Path) -> Path:
    """Where what belongs to a data set is kept: in its folder, or in one beside its only file."""
    return root if root.is_dir() else root.with_suffix("")


def fingerprint(root: Path, paths: Iterable[Path], *facts: object) -> str:
    """Short hash of each file's name, size and end (of JSON: all of it), and of further facts (through repr)."""
    found = hashlib.sha256(repr(facts).encode())
    for path in sorted(paths):
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(0 if path.suffix in (".json", ".jsonl") else max(0, size - TAIL_BYTES))
            found.update(f"{path.relative_to(root)} {size} ".encode() + file.read())
    return found.hexdigest()[:16]


class Recent(Generic[T]):
    """What was read lately, by path; the oldest is dropped when there are too many."""

    def __init__(self, most: int = 256) -> None:
        self._most, self._kept = most, OrderedDict[Path, T]()

    def get(self, path: Path, read: Callable[[Path], T]) -> T:
        """The content of a file, read now or lately. Raises FileNotFoundError when it is missing."""
        if path not in self._kept:
            if not path.is_file():
                raise FileNotFoundError(f"path={path}: no such file; copy the data set again.")
            self._kept[path] = read(path)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(path)
        return self._kept[path]
