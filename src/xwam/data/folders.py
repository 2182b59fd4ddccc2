"""The files below a folder. Links are followed, into each folder once: people put data sets together by links."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every folder with the names of its folders (those that are taken away are left out) and of its files."""
    seen = set[str]()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # of two links to one folder it is always the same that counts
        yield Path(folder), folders, files


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """All files of these kinds; none where there is no folder."""
    return [path for place, _, files in walk(folder) for name in files if (path := place / name).suffix in suffixes]
