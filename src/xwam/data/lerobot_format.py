"""The names, schemas and numbers of LeRobotDataset (v3.0 unless said), as far as we read and write it.

Ours on top, all ignored by other readers: ``meta/layout.json``; the calibration of each camera in the ``camera`` entry
of its feature's ``info`` and, for every frame, in the columns ``observation.camera.<name>.extrinsics``
(base_from_camera, 16 numbers row by row) and ``.intrinsics`` (9 numbers); ``executed_action``, ``next.success``,
``is_demonstration`` (is this action worth repeating?) and ``seed`` per frame; ``task_name``, ``success`` and ``seed``
per episode.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from xwam.data.depth import DepthCoding
from xwam.data.videos import KEY_FRAME_EVERY
from xwam.records import Camera
from xwam.robot.layout import Layout, Part
from xwam.strict_json import suggest

VERSION = "v3.0"
OLD_VERSIONS = ("v2.0", "v2.1")  # read too: one data file and one video per episode and camera, words in a .jsonl
FILES_PER_CHUNK = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
OLD_EPISODES = "meta/episodes.jsonl"
EXECUTED = "executed_action"  # a column of ours: what the robot really did
DEMONSTRATED = "is_demonstration"  # a column of any data set: is this action worth repeating?
INTERVENTION = "intervention"  # LeRobot's, where a person corrected a policy: True for the person's actions
_AXES = ["height", "width", "channels"]
DEPTH_CODING = ("video.depth_min", "video.depth_max", "video.shift", "video.use_log")  # of a depth video's info


def video_key(camera: str) -> str:
    """The feature of a camera's RGB images."""
    return f"observation.images.{camera}"


def depth_key(camera: str) -> str:
    """The feature of a camera's depth."""
    return f"observation.images.{camera}_depth"


def suggest_key(key: str, pictures: Iterable[str]) -> str:
    """The end of an error message about a feature that holds no pictures."""
    return f"no such feature of pictures; {suggest(key, sorted(pictures))}"


def place(episode: int) -> dict[str, int]:
    """Where our writer puts an episode's files: one file each."""
    return {"chunk_index": episode // FILES_PER_CHUNK, "file_index": episode % FILES_PER_CHUNK}


def depth_coding(camera: Camera) -> DepthCoding:
    """LeRobot's numbers, reaching at least as far as the camera does."""
    usual = DepthCoding()
    return usual._replace(max_m=max(usual.max_m, camera.far_m), min_m=min(usual.min_m, camera.near_m))


def is_coded_depth(feature: dict[str, Any]) -> bool:
    """True for a video whose ``info`` says how its depth is coded."""
    return feature["dtype"] == "video" and set(DEPTH_CODING) <= (feature.get("info") or {}).keys()


def stored_coding(facts: dict[str, Any]) -> DepthCoding:
    """The coding that a depth feature's ``info`` names."""
    return DepthCoding(*(facts[name] for name in DEPTH_CODING))


def slot_names(parts: Sequence[Part]) -> list[str]:
    """One name per slot, such as ``left_position.0``."""
    return [f"{part.name}.{i}" for part in parts for i in range(part.size)]


def features(layout: Layout, cameras: Sequence[Camera], depth_cameras: Sequence[str], fps: int) -> dict[str, Any]:
    """The ``features`` table of info.json: what each column and video holds."""
    result: dict[str, Any] = {}
    for camera in cameras:
        result[video_key(camera.name)] = _video_feature(
            camera, 3, fps, "h264", "yuv420p", {"camera": calibration(camera)}
        )
        if camera.name in depth_cameras:
            coding = depth_coding(camera)
            extra = {
                "is_depth_map": True,
                "video.is_depth_map": True,
                **dict(zip(DEPTH_CODING, coding, strict=True)),
            }
            result[depth_key(camera.name)] = _video_feature(camera, 1, fps, "hevc", "gray12le", extra)
    for name, (dtype, shape, names) in _columns(layout, cameras).items():
        result[name] = {"dtype": dtype, "shape": list(shape), "names": names}
    return result


def data_schema(layout: Layout, cameras: Sequence[Camera]) -> pa.Schema:
    """The columns of a data file."""
    fields = []
    for name, (dtype, (size,), _) in _columns(layout, cameras).items():
        kind = pa.bool_() if dtype == "bool" else pa.from_numpy_dtype(np.dtype(dtype))
        fields.append(pa.field(name, kind if size == 1 else pa.list_(kind, size)))
    return pa.schema(fields)


def info(layout: Layout, robot_type: str, feature_table: dict[str, Any], fps: int) -> dict[str, Any]:
    """A new info.json, with no episodes yet."""
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 0,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": "0:0"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": feature_table,
    }


def tasks_table(instructions: Sequence[str]) -> pa.Table:
    """tasks.parquet: the instruction is the pandas index, so LeRobot finds it as the row's name."""
    table = pa.table(
        {"task_index": pa.array(range(len(instructions)), pa.int64()), "__index_level_0__": list(instructions)}
    )
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **number},
            {"name": None, "field_name": "__index_level_0__", **text},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def tasks_from_table(table: pa.Table) -> list[str]:
    """The inverse of tasks_table; also for files where the text column has another name."""
    names = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)
             or pa.types.is_large_string(table.schema.field(name).type)]  # fmt: skip
    if len(names) != 1 or "task_index" not in table.column_names:
        raise ValueError(f"tasks.parquet has columns {table.column_names}: must be task_index and one text column.")
    rows = dict(zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True))
    return [rows[i] for i in range(len(rows))]


def calibration(camera: Camera) -> dict[str, Any]:
    """A camera's calibration as it stands in info.json."""
    poses = {key: getattr(camera, key) for key in ("intrinsics", "base_from_camera", "hand_from_camera")}
    numbers = {key: None if pose is None else np.asarray(pose, float).tolist() for key, pose in poses.items()}
    place = {} if camera.depth_at == Camera.depth_at else {"depth_at": camera.depth_at}  # of depth in its pixel
    rides = {"on_hand": True} if camera.on_hand else {}
    return numbers | {"hand": camera.hand, "near_m": camera.near_m, "far_m": camera.far_m} | place | rides


def is_depth(feature: dict[str, Any]) -> bool:
    """True for a depth video (new and old name of the mark)."""
    facts = feature.get("info") or {}
    return bool(facts.get("is_depth_map") or facts.get("video.is_depth_map"))


def camera_from_feature(name: str, feature: dict[str, Any]) -> Camera:
    """The camera of a video feature; without our ``camera`` entry it has a size and no calibration."""
    axes = [str(axis) for axis in feature.get("names") or _AXES]
    height, width = (feature["shape"][place] for place in ((1, 2) if axes[0].startswith("channel") else (0, 1)))
    stored = (feature.get("info") or {}).get("camera")
    if stored is None:
        return Camera(name=name, width=width, height=height)
    poses = {key: _matrix(stored[key]) for key in ("intrinsics", "base_from_camera", "hand_from_camera")}
    rest = {key: stored[key] for key in ("hand", "near_m", "far_m")}
    rest |= {"depth_at": stored.get("depth_at", Camera.depth_at), "on_hand": stored.get("on_hand", False)}
    return Camera(name=name, width=width, height=height, **poses, **rest)


def _columns(layout: Layout, cameras: Sequence[Camera]) -> dict[str, tuple[str, tuple[int], Any]]:
    """Name -> dtype, shape, names of every column of the data files."""
    action_names = slot_names(layout.action)
    columns: dict[str, tuple[str, tuple[int], Any]] = {
        "observation.state": ("float32", (layout.state_width,), slot_names(layout.state)),
        "action": ("float32", (layout.action_width,), action_names),
        EXECUTED: ("float32", (layout.action_width,), action_names),
        "next.success": ("bool", (1,), None),
        DEMONSTRATED: ("bool", (1,), None),
        "seed": ("int64", (1,), None),
    }
    for camera in cameras:
        if camera.is_calibrated:
            columns[f"observation.camera.{camera.name}.extrinsics"] = ("float32", (16,), None)
            columns[f"observation.camera.{camera.name}.intrinsics"] = ("float32", (9,), None)
    columns["timestamp"] = ("float32", (1,), None)
    for name in ("frame_index", "episode_index", "index", "task_index"):
        columns[name] = ("int64", (1,), None)
    return columns


def _video_feature(
    camera: Camera, channels: int, fps: int, codec: str, pixel_format: str, extra: dict[str, Any]
) -> dict[str, Any]:
    facts = {
        "video.height": camera.height,
        "video.width": camera.width,
        "video.codec": codec,
        "video.pix_fmt": pixel_format,
        "video.fps": fps,
        "video.channels": channels,
        "video.g": KEY_FRAME_EVERY,
        "video.is_depth_map": False,
        "is_depth_map": False,
        "has_audio": False,
    }
    shape = [camera.height, camera.width, channels]
    return {"dtype": "video", "shape": shape, "names": _AXES, "info": facts | extra}


def _matrix(rows: list[list[float]] | None) -> np.ndarray | None:
    return None if rows is None else np.asarray(rows, dtype=np.float64)
