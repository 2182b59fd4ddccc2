"""Write episodes as a LeRobotDataset v3.0: one data file per episode, one mp4 per episode and camera.

Order of writing: videos, task names, the episode's row, its data, and last ``info.json``, which says how many episodes
count. Every file is renamed into place when whole, so a reader finds a good data set after a crash at any point.
"""

import fcntl
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from xwam.data import lerobot_format as form
from xwam.data.depth import depth_to_codes
from xwam.data.episodes import Episode, check_episode
from xwam.data.lerobot_stats import write_stats
from xwam.data.videos import write_codes, write_rgb
from xwam.files import as_json, whole_file, write_text
from xwam.records import Camera
from xwam.robot.actions import base_from_hand
from xwam.robot.layout import Layout, load_layout


class DatasetWriter:
    """A new data set, or an existing one to continue. One writer at a time; readers may look on."""

    def __init__(
        self, root: Path, *, layout: Layout, cameras: Sequence[Camera], action_hz: float, robot_type: str
    ) -> None:
        """Raises ValueError when ``root`` holds something else or a data set of another layout, rate or cameras."""
        self.root, self.layout, self.cameras, self.robot_type = root, layout, tuple(cameras), robot_type
        if action_hz != int(action_hz) or action_hz <= 0:
            raise ValueError(
                f"action_hz={action_hz}: this format needs a whole positive number; resample the episodes."
            )
        self.fps = int(action_hz)
        self._info: dict[str, Any] = {}
        self._rows: list[dict[str, Any]] = []
        self._instructions: list[str] = []
        known = root / "meta" / "info.json"
        begun = known.is_file() or (root / "meta" / "layout.json").is_file()
        if not begun and root.is_dir() and any(root.iterdir()):
            raise ValueError(f"root={root}: not empty and not a data set; give a new folder or an existing data set.")
        (root / "meta").mkdir(parents=True, exist_ok=True)
        self._lock = (root / "meta" / ".lock").open("w")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"root={root}: another process is writing here; wait for it or stop it.") from error
        except OSError as error:
            raise ValueError(
                f"root={root}: cannot be locked ({error.strerror}), so that two processes could spoil it; record to a "
                "disk whose file system has locks, and copy the data set."
            ) from error
        if known.is_file():
            self._continue(json.loads(known.read_text()))
        else:
            layout.save(root / "meta" / "layout.json")

    @property
    def num_episodes(self) -> int:
        """Episodes that are safely on the disk."""
        return len(self._rows)

    def episode_keys(self) -> set[tuple[str, int]]:
        """Task name and seed of every episode: what a collector need not do again."""
        return {(row["task_name"], row["seed"]) for row in self._rows}

    def write(self, episode: Episode) -> int:
        """Add an episode and return its number. Raises ValueError when it does not fit the data set."""
        check_episode(episode, self.layout, self.cameras)
        if self._rows:
            depth_names = {c.name for c in self.cameras if form.depth_key(c.name) in self._info["features"]}
            if set(episode.depth) != depth_names:
                raise ValueError(f"depth of cameras {sorted(episode.depth)}: this data set has {sorted(depth_names)}.")
        else:
            table = form.features(self.layout, self.cameras, list(episode.depth), self.fps)
            self._info = form.info(self.layout, self.robot_type, table, self.fps)
        self._write_videos(episode)
        if episode.instruction not in self._instructions:
            self._write_table(form.tasks_table([*self._instructions, episode.instruction]), "meta/tasks.parquet")
            self._instructions.append(episode.instruction)
        row = self._row(episode)
        self._write_table(pa.Table.from_pylist([row], _row_schema(row)), form.EPISODES_PATH.format(**self._place()))
        self._write_table(self._data(episode), form.DATA_PATH.format(**self._place()))
        self._write_info(row)
        self._rows.append(row)
        return row["episode_index"]

    def finish(self) -> None:
        """Write ``meta/stats.json`` (exact quantiles) and let other writers in."""
        if self._rows:
            write_stats(self.root, self._info, self.num_episodes)
        self._lock.close()

    def _continue(self, info: dict[str, Any]) -> None:
        fps, version = info["fps"], info["codebase_version"]
        if version != form.VERSION or fps != self.fps:
            raise ValueError(f"root={self.root} has version={version}, fps={fps}: need {form.VERSION} and {self.fps}.")
        layout_file = self.root / "meta" / "layout.json"
        if not layout_file.is_file() or load_layout(layout_file) != self.layout:
            raise ValueError(f"root={self.root} has another layout than {self.layout.name!r}: write to a new folder.")
        depth_names = [c.name for c in self.cameras if form.depth_key(c.name) in info["features"]]
        expected = as_json(form.features(self.layout, self.cameras, depth_names, fps))
        if form.DEMONSTRATED not in info["features"]:
            raise ValueError(
                f"root={self.root} was recorded before frames said {form.DEMONSTRATED!r}: record into a new folder and "
                "train on both (--data OLD NEW)."
            )
        for name in expected.keys() | info["features"].keys():
            if expected.get(name) != info["features"].get(name):
                raise ValueError(
                    f"root={self.root} feature {name!r} is {info['features'].get(name)}, this writer's is "
                    f"{expected.get(name)}: cameras and layout must stay the same; write to a new folder."
                )
        self._info = info
        for episode in range(info["total_episodes"]):
            path = self.root / form.EPISODES_PATH.format(**form.place(episode))
            if not path.is_file():
                raise ValueError(f"root={self.root} was not written by this writer (no {path}): write to a new folder.")
            self._rows += pq.read_table(path).to_pylist()
        if self._rows:
            self._instructions = form.tasks_from_table(pq.read_table(self.root / "meta" / "tasks.parquet"))

    def _place(self) -> dict[str, int]:
        return form.place(self.num_episodes)

    def _write_table(self, table: pa.Table, name: str) -> None:
        with whole_file(self.root / name) as path:
            pq.write_table(table, path)

    def _write_videos(self, episode: Episode) -> None:
        for camera in self.cameras:
            name = form.VIDEO_PATH.format(video_key=form.video_key(camera.name), **self._place())
            with whole_file(self.root / name) as path:
                write_rgb(path, episode.video[camera.name], self.fps)
            if camera.name in episode.depth:
                name = form.VIDEO_PATH.format(video_key=form.depth_key(camera.name), **self._place())
                with whole_file(self.root / name) as path:
                    write_codes(path, depth_to_codes(episode.depth[camera.name], form.depth_coding(camera)), self.fps)

    def _row(self, episode: Episode) -> dict[str, Any]:
        """The episode's row in meta/episodes."""
        place, length = self._place(), len(episode.state)
        first = self._info["total_frames"]
        row: dict[str, Any] = {
            "episode_index": self.num_episodes,
            "tasks": [episode.instruction],
            "length": length,
            "data/chunk_index": place["chunk_index"],
            "data/file_index": place["file_index"],
            "dataset_from_index": first,
            "dataset_to_index": first + length,
        }
        for key, feature in self._info["features"].items():
            if feature["dtype"] == "video":
                row |= {f"videos/{key}/{name}": value for name, value in place.items()}
                row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": length / self.fps}
        row |= {f"meta/episodes/{name}": value for name, value in place.items()}
        return row | {"task_name": episode.task, "success": bool(episode.success), "seed": int(episode.seed)}

    def _data(self, episode: Episode) -> pa.Table:
        """The episode's rows of the data file."""
        length = len(episode.state)
        executed = episode.action if episode.executed_action is None else episode.executed_action
        demonstrated, steps = episode.demonstrated, np.arange(length)
        columns: dict[str, np.ndarray] = {
            "observation.state": episode.state,
            "action": episode.action,
            form.EXECUTED: executed,
            "next.success": (steps == length - 1) & episode.success,
            form.DEMONSTRATED: np.full(length, episode.success) if demonstrated is None else demonstrated,
            "seed": np.full(length, episode.seed),
            "timestamp": steps / self.fps,
            "frame_index": steps,
            "episode_index": np.full(length, self.num_episodes),
            "index": self._info["total_frames"] + steps,
            "task_index": np.full(length, self._instructions.index(episode.instruction)),
        }
        for camera in self.cameras:
            if camera.is_calibrated:
                name = f"observation.camera.{camera.name}"
                poses = _base_from_camera(camera, self.layout, episode.state)
                columns[f"{name}.extrinsics"] = poses.reshape(length, 16)
                columns[f"{name}.intrinsics"] = np.tile(np.asarray(camera.intrinsics).reshape(1, 9), (length, 1))
        schema = form.data_schema(self.layout, self.cameras)
        return pa.Table.from_arrays([_array(columns[field.name], field.type) for field in schema], schema=schema)

    def _write_info(self, row: dict[str, Any]) -> None:
        """The moment from which the episode counts."""
        info = self._info | {
            "total_episodes": row["episode_index"] + 1,
            "total_frames": row["dataset_to_index"],
            "total_tasks": len(self._instructions),
            "splits": {"train": f"0:{row['episode_index'] + 1}"},
        }
        write_text(self.root / "meta" / "info.json", json.dumps(info, indent=4))
        self._info = info


def _base_from_camera(camera: Camera, layout: Layout, state: Float[np.ndarray, "N Ds"]) -> Float[np.ndarray, "N 4 4"]:
    """Where the camera is at each step; a wrist camera follows the pose of its hand in the state."""
    if camera.base_from_camera is not None:
        return np.broadcast_to(camera.base_from_camera, (len(state), 4, 4))
    assert camera.hand_from_camera is not None
    return base_from_hand(layout, state, camera.hand) @ camera.hand_from_camera


def _row_schema(row: dict[str, Any]) -> pa.Schema:
    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), list: pa.list_(pa.string())}
    return pa.schema([(name, kinds[type(value)]) for name, value in row.items()])


def _array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        flat = np.ascontiguousarray(values, dtype=kind.value_type.to_pandas_dtype()).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), kind.list_size)
    return pa.array(values.astype(kind.to_pandas_dtype()), kind)
