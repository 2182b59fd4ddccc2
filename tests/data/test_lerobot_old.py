"""LeRobotDataset v2.1: files for every episode, words in .jsonl files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import SIZE, make_episode
from xwam.data.depth import DepthCoding, depth_to_codes
from xwam.data.lerobot import DatasetWriter, open_lerobot
from xwam.data.videos import write_codes, write_rgb
from xwam.records import Camera
from xwam.robot.layout import Layout

LENGTHS = (12, 9, 10)
CHUNK = 2  # episodes per folder
DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def _lines(path: Path, entries: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def _features() -> dict[str, Any]:
    facts = {"video.fps": 20.0, "video.height": SIZE, "video.width": SIZE, "video.is_depth_map": False}
    rgb = {"dtype": "video", "shape": [3, SIZE, SIZE], "names": ["channels", "height", "width"], "info": facts}
    coding = DepthCoding()
    depth = {"video.depth_min": coding.min_m, "video.depth_max": coding.max_m, "video.shift": coding.shift_m}
    depth = facts | depth | {"video.use_log": True, "video.is_depth_map": True}
    return {
        "observation.images.front": rgb,
        "observation.images.front_depth": rgb | {"shape": [1, SIZE, SIZE], "info": depth},
        "observation.images.wrist": rgb,
        "observation.state": {"dtype": "float32", "shape": [16], "names": None},
        "action": {"dtype": "float32", "shape": [14], "names": None},
    }


@pytest.fixture(params=["v2.0", "v2.1"])
def dataset(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Three episodes in two folders, as the published description of the format says."""
    (tmp_path / "meta").mkdir()
    words = sorted({make_episode(i).instruction for i in range(3)})
    for number, length in enumerate(LENGTHS):
        episode = make_episode(number, length)
        place = {"episode_chunk": number // CHUNK, "episode_index": number}
        steps = np.arange(length)
        columns = {
            "observation.state": pa.array(episode.state.astype(np.float32).tolist(), pa.list_(pa.float32())),
            "action": pa.array(episode.action.astype(np.float32).tolist(), pa.list_(pa.float32())),
            "timestamp": pa.array((steps / 20).astype(np.float32)),
            "frame_index": pa.array(steps),
            "episode_index": pa.array(np.full(length, number)),
            "index": pa.array(sum(LENGTHS[:number]) + steps),
            "task_index": pa.array(np.full(length, words.index(episode.instruction))),
        }
        codes = depth_to_codes(episode.depth["front"], DepthCoding())
        paths = [tmp_path / DATA_PATH.format(**place)]
        for key in ("front", "wrist", "front_depth"):
            paths.append(tmp_path / VIDEO_PATH.format(video_key=f"observation.images.{key}", **place))
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), paths[0])
        write_rgb(paths[1], episode.video["front"], 20)
        write_rgb(paths[2], episode.video["wrist"], 20)
        write_codes(paths[3], codes, 20)
    episodes = [
        {"episode_index": i, "tasks": [make_episode(i).instruction], "length": length}
        for i, length in enumerate(LENGTHS)
    ]
    _lines(tmp_path / "meta/episodes.jsonl", episodes)
    _lines(tmp_path / "meta/tasks.jsonl", [{"task_index": i, "task": text} for i, text in enumerate(words)])
    info = {
        "codebase_version": request.param,
        "robot_type": "toy",
        "total_episodes": 3,
        "total_frames": sum(LENGTHS),
        "total_tasks": len(words),
        "total_videos": 9,
        "total_chunks": 2,
        "chunks_size": CHUNK,
        "fps": 20,
        "splits": {"train": "0:3"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": _features(),
    }
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    return tmp_path


def test_it_is_read_like_v3(dataset: Path, layout: Layout) -> None:
    episodes = open_lerobot(dataset, layout=layout)
    assert (episodes.num_episodes, episodes.action_hz) == (3, 20.0)
    assert [(c.name, c.height, c.width) for c in episodes.cameras] == [("front", SIZE, SIZE), ("wrist", SIZE, SIZE)]
    indices = np.array([8, 3, 3, 0])
    for number, length in enumerate(LENGTHS):
        expected, info = make_episode(number, length), episodes.info(number)
        assert (info.length, info.instruction, info.task) == (length, expected.instruction, expected.instruction)
        np.testing.assert_array_equal(info.state, expected.state.astype(np.float32))
        np.testing.assert_array_equal(info.action, expected.action.astype(np.float32))
        for camera in ("front", "wrist"):
            error = np.abs(episodes.frames(number, camera, indices).astype(float) - expected.video[camera][indices])
            assert error.mean() < 12  # lossy: colour at half resolution
        assert np.abs(episodes.depth(number, "front", indices) - expected.depth["front"][indices]).max() < 1e-3
        assert episodes.depth(number, "wrist", indices) is None


def test_its_fingerprint_follows_the_words(dataset: Path, layout: Layout) -> None:
    first = open_lerobot(dataset, layout=layout).fingerprint
    assert open_lerobot(dataset, layout=layout).fingerprint == first
    path = dataset / "meta/episodes.jsonl"
    path.write_text(path.read_text().replace("push button", "pull button"))
    changed = open_lerobot(dataset, layout=layout)
    assert changed.info(0).instruction.startswith("pull")
    assert changed.fingerprint != first


def test_success_is_true_or_false(dataset: Path, layout: Layout) -> None:
    episodes = dataset / "meta/episodes.jsonl"
    lines = [json.loads(line) for line in episodes.read_text().splitlines()]
    said = [True, False, None]
    _lines(episodes, [line | {"success": value} for line, value in zip(lines, said, strict=True)])
    marks = [open_lerobot(dataset, layout=layout).demonstrated(number) for number in range(3)]
    assert marks[0] is marks[2] is None
    assert not marks[1].any()
    _lines(episodes, [line | {"success": "False"} for line in lines])
    with pytest.raises(ValueError, match=r"root=.* episode=0 'success' is 'False': must be true or false"):
        open_lerobot(dataset, layout=layout)


def test_what_is_missing_is_named(dataset: Path, layout: Layout, cameras: tuple[Camera, ...]) -> None:
    with pytest.raises(ValueError, match="layout="):
        open_lerobot(dataset)
    with pytest.raises(ValueError, match=r"version=v2\.[01]"):
        DatasetWriter(dataset, layout=layout, cameras=cameras, action_hz=20.0, robot_type="toy")
    episodes = dataset / "meta/episodes.jsonl"
    lines = episodes.read_text().splitlines()
    episodes.write_text("\n".join(lines[:2]))
    with pytest.raises(ValueError, match="episode=2 has no row"):
        open_lerobot(dataset, layout=layout)
    _lines(episodes, [json.loads(line) | {"tasks": []} for line in lines])
    with pytest.raises(ValueError, match=r"tasks=\[\]"):
        open_lerobot(dataset, layout=layout)
    episodes.write_text("\n".join(lines))
    (dataset / "videos/chunk-001/observation.images.wrist/episode_000002.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="episode_000002"):
        open_lerobot(dataset, layout=layout)
    episodes.unlink()
    with pytest.raises(FileNotFoundError, match=r"episodes\.jsonl"):
        open_lerobot(dataset, layout=layout)
