"""Read a LeRobotDataset, ours or one that LeRobot wrote (then with a layout that says what its slots mean).

v3.0 puts many episodes into one file and says where each begins; v2.0 and v2.1 have files for every episode.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int, UInt8

from xwam.data import lerobot_format as form
from xwam.data.depth import codes_to_depth
from xwam.data.episodes import EpisodeInfo, camera_named
from xwam.data.files import Recent, fingerprint
from xwam.data.videos import read_codes, read_frames
from xwam.records import Camera
from xwam.robot.layout import Layout, load_layout


class _Video(NamedTuple):
    path: Path
    first_s: float  # where the episode begins in the file


class _Row(NamedTuple):
    length: int
    instruction: str
    task: str
    data: Path
    videos: dict[str, _Video]


class LeRobotEpisodes:
    """A LeRobot data set as ``Episodes``; see open_lerobot."""

    def __init__(self, root: Path, layout: Layout, cameras: tuple[Camera, ...], info: dict[str, Any]) -> None:
        self.root, self.layout, self.cameras = root, layout, cameras
        self.action_hz = float(info["fps"])
        self._features = info["features"]
        keys = [form.video_key(camera.name) for camera in cameras]
        keys += [key for key in (form.depth_key(camera.name) for camera in cameras) if key in self._features]
        rows = (_rows if info["codebase_version"] == form.VERSION else _old_rows)(root, info, keys)
        self._rows = _checked(root, rows, info["total_episodes"])
        self._recent = Recent[dict[int, tuple[np.ndarray, np.ndarray]]]()
        self._fingerprint: str | None = None

    @property
    def num_episodes(self) -> int:
        """Episodes in the set."""
        return len(self._rows)

    @property
    def fingerprint(self) -> str:
        """Hash of layout, cameras, and every file's size and end (where mp4 and parquet keep their index)."""
        if self._fingerprint is None:
            folders = [self.root / name for name in ("data", "videos", "meta/episodes")]
            paths = [p for folder in folders for p in folder.rglob("*") if p.suffix in {".parquet", ".mp4"}]
            paths += [path for path in [self.root / form.OLD_EPISODES] if path.is_file()]
            cameras = [form.calibration(camera) for camera in self.cameras]
            facts = (self.layout, cameras, self.num_episodes, self.action_hz)
            self._fingerprint = fingerprint(self.root, paths, *facts)
        return self._fingerprint

    def length(self, episode: int) -> int:
        """Number of steps."""
        return self._row(episode).length

    def info(self, episode: int) -> EpisodeInfo:
        """Length, words, states and actions (as the layout says). Raises ValueError on NaN or missing steps."""
        row = self._row(episode)
        state, action = self._recent.get(row.data, _states_and_actions).get(
            episode, (np.zeros((0, 0)), np.zeros((0, 0)))
        )
        if len(state) != row.length:
            raise ValueError(
                f"episode={episode} has {len(state)} steps in {row.data}, meta/episodes says {row.length}: "
                "the data set is damaged; copy it again."
            )
        try:
            self.layout.check_state(state)
            self.layout.check_action(action)
        except ValueError as error:
            raise ValueError(f"episode={episode} of {self.root}: {error}") from error
        return EpisodeInfo(row.length, row.instruction, row.task, state, action)

    def frames(self, episode: int, camera: str, indices: Int[np.ndarray, " T"]) -> UInt8[np.ndarray, "T H W 3"]:
        """RGB images at these steps, exactly. Raises ValueError when the video is damaged or of another size."""
        video = self._video(episode, camera, form.video_key(camera), indices)
        return self._sized(read_frames(video.path, indices, self.action_hz, first_s=video.first_s), camera, video.path)

    def depth(self, episode: int, camera: str, indices: Int[np.ndarray, " T"]) -> Float32[np.ndarray, "T H W"] | None:
        """Metres at these steps, 0 where unknown; None when this camera has no depth."""
        key = form.depth_key(camera)
        if key not in self._features:
            camera_named(self.cameras, camera)
            return None
        facts = self._features[key]["info"]
        coding = form.stored_coding(facts)
        video = self._video(episode, camera, key, indices)
        codes = read_codes(video.path, indices, self.action_hz, first_s=video.first_s)
        return codes_to_depth(self._sized(codes, camera, video.path), coding)

    def _row(self, episode: int) -> _Row:
        if not 0 <= episode < len(self._rows):
            raise ValueError(f"episode={episode}: must be in 0..{len(self._rows) - 1}.")
        return self._rows[episode]

    def _video(self, episode: int, camera: str, key: str, indices: np.ndarray) -> _Video:
        row = self._row(episode)
        camera_named(self.cameras, camera)
        if indices.min() < 0 or indices.max() >= row.length:
            raise ValueError(f"indices={indices.tolist()}: episode {episode} has frames 0..{row.length - 1}.")
        return row.videos[key]

    def _sized(self, frames: np.ndarray, camera: str, path: Path) -> np.ndarray:
        expected = camera_named(self.cameras, camera)
        if frames.shape[1:3] != (expected.height, expected.width):
            raise ValueError(
                f"video={path} has size {frames.shape[1:3]}: camera {camera!r} is {expected.height} high and "
                f"{expected.width} wide; encode it again or correct meta/info.json."
            )
        return frames


def open_lerobot(
    root: Path, *, layout: Layout | None = None, cameras: Sequence[Camera] | None = None
) -> LeRobotEpisodes:
    """Open a LeRobotDataset (v3.0, v2.1 or v2.0).

    Our own data sets bring layout and calibration along. For others pass the layout (same widths as the columns
    ``observation.state`` and ``action``) and, for point clouds, calibrated cameras (a subset of the data set's).
    Raises FileNotFoundError or ValueError when something is missing or does not fit.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise FileNotFoundError(f"root={root}: no LeRobot data set there ({path.name} is missing); check the path.")
    info = json.loads(path.read_text())
    if info["codebase_version"] not in (form.VERSION, *form.OLD_VERSIONS):
        raise ValueError(
            f"root={root} has codebase_version={info['codebase_version']!r}: only {form.VERSION} and "
            f"{', '.join(form.OLD_VERSIONS)} are read; convert it with LeRobot's own script."
        )
    stored = root / "meta" / "layout.json"
    if layout is None:
        if not stored.is_file():
            raise ValueError(f"root={root} has no meta/layout.json: pass layout=, it says what the slots mean.")
        layout = load_layout(stored)
    features = info["features"]
    widths = {"observation.state": layout.state_width, "action": layout.action_width}
    for name, width in widths.items():
        shape = list(features[name]["shape"]) if name in features else None
        if shape != [width]:
            raise ValueError(f"root={root} feature {name!r} has shape {shape}: layout {layout.name!r} needs [{width}].")
    known = _cameras(root, features)
    if cameras is None:
        cameras = known
    for camera in cameras:
        size = camera_named(known, camera.name)
        if (camera.height, camera.width) != (size.height, size.width):
            raise ValueError(
                f"camera={camera.name!r} is {camera.height} x {camera.width}: the data set's images are "
                f"{size.height} x {size.width} (height x width); give the camera of those images."
            )
    return LeRobotEpisodes(root, layout, tuple(cameras), info)


def _cameras(root: Path, features: dict[str, Any]) -> tuple[Camera, ...]:
    prefix = form.video_key("")
    cameras = []
    for key, feature in features.items():
        if not key.startswith(prefix) or form.is_depth(feature):
            continue
        if feature["dtype"] != "video":
            raise ValueError(f"root={root} feature {key!r} has dtype={feature['dtype']!r}: only 'video' is read.")
        cameras.append(form.camera_from_feature(key.removeprefix(prefix), feature))
    return tuple(cameras)


def _rows(root: Path, info: dict[str, Any], keys: Sequence[str]) -> dict[int, _Row]:
    """The episodes of v3.0: rows of parquet files that say which file holds what."""
    wanted = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "task_name"]
    wanted += [f"videos/{key}/{what}" for key in keys for what in ("chunk_index", "file_index", "from_timestamp")]
    rows: dict[int, _Row] = {}
    for path in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        columns = [name for name in pq.read_schema(path).names if name in wanted]
        for entry in pq.read_table(path, columns=columns).to_pylist():
            videos = {}
            for key in keys:
                place = {name: entry[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
                video = root / info["video_path"].format(video_key=key, **place)
                videos[key] = _Video(video, entry[f"videos/{key}/from_timestamp"])
            place = {name: entry[f"data/{name}"] for name in ("chunk_index", "file_index")}
            rows[entry["episode_index"]] = _row(entry, root / info["data_path"].format(**place), videos)
    return rows


def _old_rows(root: Path, info: dict[str, Any], keys: Sequence[str]) -> dict[int, _Row]:
    """The episodes of v2.0 and v2.1: lines of a text file; the number of an episode says where its files are."""
    path = root / form.OLD_EPISODES
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no such file; copy the data set again.")
    rows: dict[int, _Row] = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.strip():
            entry = json.loads(line)
            number = entry["episode_index"]
            place = {"episode_chunk": number // info["chunks_size"], "episode_index": number}
            videos = {key: _Video(root / info["video_path"].format(video_key=key, **place), 0.0) for key in keys}
            rows[number] = _row(entry, root / info["data_path"].format(**place), videos)
    return rows


def _row(entry: dict[str, Any], data: Path, videos: dict[str, _Video]) -> _Row:
    if not entry["tasks"]:
        raise ValueError(f"episode={entry['episode_index']} has tasks=[]: it needs words; add them or leave it out.")
    instruction = entry["tasks"][0]
    return _Row(entry["length"], instruction, entry.get("task_name") or instruction, data, videos)


def _checked(root: Path, rows: dict[int, _Row], num_episodes: int) -> list[_Row]:
    """The episodes that count, in order; each must be there with its videos."""
    for number in range(num_episodes):
        if number not in rows:
            raise ValueError(f"root={root} episode={number} has no row in meta/episodes: copy the data set again.")
    for path in sorted({video.path for i in range(num_episodes) for video in rows[i].videos.values()}):
        if not path.is_file():
            raise FileNotFoundError(f"video={path}: no such file; copy it again or leave its episode out.")
    return [rows[i] for i in range(num_episodes)]


def _states_and_actions(path: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """States and actions of every episode in a data file."""
    table = pq.read_table(path, columns=["observation.state", "action", "episode_index"])
    state, action = _matrix(table["observation.state"]), _matrix(table["action"])
    numbers = table["episode_index"].to_numpy()
    return {int(n): (state[numbers == n], action[numbers == n]) for n in np.unique(numbers)}


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of lists (or of numbers) as ``rows x width``, float32."""
    flat = column.combine_chunks()
    if isinstance(flat, pa.ChunkedArray):
        flat = flat.chunk(0)
    values = flat.flatten() if pa.types.is_nested(flat.type) else flat
    return values.to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float32)
