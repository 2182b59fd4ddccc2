"""Where the episodes of a LeRobotDataset lie: which file holds which rows and frames.

v3.0 puts many episodes into one file and says where each begins; v2.0 and v2.1 have files for every episode.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float32

from xwam.data import lerobot_format as form
from xwam.data.recorded import Row, is_success


class VideoPlace(NamedTuple):
    """A video file and where the episode begins in it."""

    path: Path
    first_s: float


@dataclass(frozen=True, kw_only=True)
class VideoRow(Row):
    """An episode and its video files; a camera it lacks has none."""

    videos: dict[str, VideoPlace]


def read_info(root: Path) -> dict[str, Any]:
    """meta/info.json. Raises FileNotFoundError, or ValueError for a version that is not read."""
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise FileNotFoundError(f"root={root}: no LeRobot data set there ({path.name} is missing); check the path.")
    info = json.loads(path.read_text())
    if info["codebase_version"] not in (form.VERSION, *form.OLD_VERSIONS):
        raise ValueError(
            f"root={root} has codebase_version={info['codebase_version']!r}: only {form.VERSION} and "
            f"{', '.join(form.OLD_VERSIONS)} are read; convert it with LeRobot's own script."
        )
    return info


def read_rows(
    root: Path,
    info: dict[str, Any],
    keys: Sequence[str],
    *,
    optional: Collection[str] = (),
    instruction: str | None = None,
) -> list[VideoRow]:
    """All episodes in order; each must be there with the videos ``keys``, but for those that are ``optional``.

    ``instruction``: for episodes without words.
    """
    entries = _entries(root, info)
    rows = []
    for number in range(info["total_episodes"]):
        if number not in entries:
            raise ValueError(f"root={root} episode={number} has no row in meta/episodes: copy the data set again.")
        videos = {}
        for key in keys:
            place = _video(root, info, entries[number], key)
            if place is not None and (key not in optional or place.path.is_file()):
                videos[key] = place
            elif key not in optional:
                raise ValueError(f"root={root} episode={number} has no video {key!r}: say may_be_missing, or add it.")
        rows.append(_row(root, info, entries[number], videos, instruction))
    for path in sorted({video.path for row in rows for video in row.videos.values()}):
        if not path.is_file():
            raise FileNotFoundError(f"video={path}: no such file; copy it again or leave its episode out.")
    return rows


def read_columns(path: Path, keys: Sequence[str]) -> dict[int, dict[str, Float32[np.ndarray, "_N _n"]]]:
    """These columns of every episode in a data file, as ``rows x width``."""
    table = _table(path, columns=[*keys, "episode_index"])
    values = {key: matrix(table[key]) for key in keys}
    numbers = table["episode_index"].to_numpy()
    order = np.argsort(numbers, kind="stable")
    present, starts = np.unique(numbers[order], return_index=True)
    places = np.split(order, starts[1:])
    return {
        int(n): {key: rows[where] for key, rows in values.items()} for n, where in zip(present, places, strict=True)
    }


def read_pictures(path: Path, key: str, episode: int) -> list[bytes]:
    """The picture files of an episode that are kept in a column; one that is missing is empty."""
    table = _table(path, columns=[key], filters=pc.field("episode_index") == episode)
    return [(entry or {}).get("bytes") or b"" for entry in table[key].to_pylist()]


def column_names(path: Path) -> list[str]:
    """The columns of a data file."""
    with _named(path):
        return pq.read_schema(path).names


def _table(path: Path, **asked: Any) -> pa.Table:
    with _named(path):
        return pq.read_table(path, **asked)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file it is that cannot be read."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"parquet={path}: cannot be read ({error}); copy it again.") from error


def matrix(column: pa.ChunkedArray) -> Float32[np.ndarray, "_N _n"]:
    """A column of lists (or of numbers) as ``rows x width``."""
    flat = column.combine_chunks()
    if isinstance(flat, pa.ChunkedArray):
        flat = flat.chunk(0)
    while pa.types.is_nested(flat.type):
        flat = flat.flatten()
    return flat.to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float32)


def _entries(root: Path, info: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """What is said about each episode, by number."""
    if info["codebase_version"] == form.VERSION:
        return {entry["episode_index"]: entry for entry in _new_entries(root)}
    path = root / form.OLD_EPISODES
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no such file; copy the data set again.")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return {entry["episode_index"]: entry for entry in lines}


def _new_entries(root: Path) -> Iterator[dict[str, Any]]:
    wanted = ("episode_index", "tasks", "length", "data/", "videos/", "task_name", "success")
    for path in sorted((root / "meta" / "episodes").glob("[!.]*/[!.]*.parquet")):
        columns = [name for name in column_names(path) if name.startswith(wanted)]
        yield from _table(path, columns=columns).to_pylist()


def _video(root: Path, info: dict[str, Any], entry: dict[str, Any], key: str) -> VideoPlace | None:
    if info["codebase_version"] != form.VERSION:
        return VideoPlace(root / info["video_path"].format(video_key=key, **_old_place(info, entry)), 0.0)
    if entry.get(f"videos/{key}/chunk_index") is None:
        return None
    place = {name: entry[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
    return VideoPlace(root / info["video_path"].format(video_key=key, **place), entry[f"videos/{key}/from_timestamp"])


def _row(
    root: Path, info: dict[str, Any], entry: dict[str, Any], videos: dict[str, VideoPlace], instruction: str | None
) -> VideoRow:
    words = next((text for text in entry["tasks"] if text.strip()), instruction or "")
    if not words.strip():
        raise ValueError(
            f"episode={entry['episode_index']} has tasks={entry['tasks']}: it needs words; add them, give "
            "an instruction in robot.json, or leave it out."
        )
    if info["codebase_version"] == form.VERSION:
        place = {name: entry[f"data/{name}"] for name in ("chunk_index", "file_index")}
    else:
        place = _old_place(info, entry)
    data = root / info["data_path"].format(**place)
    return VideoRow(
        length=entry["length"],
        instruction=words,
        task=entry.get("task_name") or words,
        data=data,
        videos=videos,
        num_tasks=len({text for text in entry["tasks"] if text.strip()}),
        success=is_success(entry.get("success"), f"root={root} episode={entry['episode_index']}"),
    )


def _old_place(info: dict[str, Any], entry: dict[str, Any]) -> dict[str, int]:
    number = entry["episode_index"]
    return {"episode_chunk": number // info["chunks_size"], "episode_index": number}
