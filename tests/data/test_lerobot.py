"""A data set written here reads back equal, survives interruptions, and bad ones are refused."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import make_episode
from xwam.data import lerobot_write
from xwam.data.lerobot import DatasetWriter, open_lerobot
from xwam.records import Camera
from xwam.robot.layout import Layout, two_arm_layout


def open_writer(root: Path, layout: Layout, cameras: tuple[Camera, ...], hz: float = 20.0) -> DatasetWriter:
    return DatasetWriter(root, layout=layout, cameras=cameras, action_hz=hz, robot_type="toy")


@pytest.fixture
def dataset(tmp_path: Path, layout: Layout, cameras: tuple[Camera, ...]) -> Path:
    writer = open_writer(tmp_path / "set", layout, cameras)
    for number in range(3):
        assert writer.write(make_episode(number, 20 + number)) == number
    writer.finish()
    return tmp_path / "set"


def test_round_trip(dataset: Path, layout: Layout, cameras: tuple[Camera, ...]) -> None:
    episodes = open_lerobot(dataset)
    assert (episodes.num_episodes, episodes.action_hz, episodes.layout) == (3, 20.0, layout)
    for stored, given in zip(episodes.cameras, cameras, strict=True):
        assert (stored.name, stored.near_m, stored.far_m) == (given.name, given.near_m, given.far_m)
        np.testing.assert_allclose(stored.intrinsics, given.intrinsics)
    assert episodes.cameras[0].hand_from_camera is None
    np.testing.assert_allclose(episodes.cameras[1].hand_from_camera, cameras[1].hand_from_camera)
    indices = np.array([17, 3, 3, 4, 11])
    for number in range(3):
        expected = make_episode(number, 20 + number)
        info = episodes.info(number)
        assert (info.length, info.task, info.instruction) == (20 + number, expected.task, expected.instruction)
        np.testing.assert_array_equal(info.state, expected.state.astype(np.float32))
        np.testing.assert_array_equal(info.action, expected.action.astype(np.float32))
        for camera in ("front", "wrist"):
            frames = episodes.frames(number, camera, indices)
            error = np.abs(frames.astype(float) - expected.video[camera][indices])
            assert error.mean() < 12  # lossy: colour at half resolution
            depth = episodes.depth(number, camera, indices)
            known = expected.depth[camera][indices]
            assert (depth[known == 0] == 0).all()
            assert np.abs(depth - known).max() < 1e-3


def test_where_depth_lies_in_its_pixel_is_kept(tmp_path: Path, layout: Layout, cameras: tuple[Camera, ...]) -> None:
    placed = (replace(cameras[0], depth_at=0.75), cameras[1])
    open_writer(tmp_path / "set", layout, placed).write(make_episode(0, 20))
    assert [camera.depth_at for camera in open_lerobot(tmp_path / "set").cameras] == [0.75, 0.5]


def test_a_folder_that_looks_like_a_column_is_none(tmp_path: Path, layout: Layout, cameras: tuple[Camera, ...]) -> None:
    writer = open_writer(tmp_path / "seed=3", layout, cameras)
    writer.write(make_episode(0, 20))
    writer.write(make_episode(1, 20))
    writer.finish()
    stats = json.loads((tmp_path / "seed=3/meta/stats.json").read_text())
    assert (stats["seed"]["min"], stats["seed"]["max"], stats["seed"]["count"]) == ([100], [101], [40])


def test_every_frame_is_the_right_one(tmp_path: Path, layout: Layout, cameras: tuple[Camera, ...]) -> None:
    episode = make_episode(0, 40)
    grey = np.broadcast_to((np.arange(40) * 6).astype(np.uint8)[:, None, None, None], (40, 32, 32, 3))
    writer = open_writer(tmp_path / "set", layout, cameras)
    writer.write(replace(episode, video={"front": grey, "wrist": grey}))
    episodes = open_lerobot(tmp_path / "set")
    for indices in (np.arange(40), np.array([39]), np.array([0, 39, 1, 38]), np.arange(3, 40, 4)):
        seen = episodes.frames(0, "front", indices).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(seen, indices * 6, atol=2)


def test_per_frame_calibration_and_extra_columns(dataset: Path, cameras: tuple[Camera, ...]) -> None:
    table = pq.read_table(dataset / "data/chunk-000/file-001.parquet").to_pydict()
    expected = make_episode(1, 21)
    for step in (0, 20):
        base_from_hand = np.eye(4)
        base_from_hand[:3, 3] = expected.state[step, :3]
        pose = np.reshape(table["observation.camera.wrist.extrinsics"][step], (4, 4))
        np.testing.assert_allclose(pose, base_from_hand @ cameras[1].hand_from_camera, atol=1e-6)
    np.testing.assert_allclose(table["executed_action"], expected.executed_action, atol=1e-6)
    assert table["next.success"] == [False] * 20 + [True]
    assert table["index"][0] == 20
    assert set(table["seed"]) == {101}


def test_statistics_are_exact(dataset: Path) -> None:
    stats = json.loads((dataset / "meta/stats.json").read_text())
    actions = np.concatenate([make_episode(i, 20 + i).action for i in range(3)]).astype(np.float32)
    np.testing.assert_allclose(stats["action"]["q01"], np.quantile(actions, 0.01, axis=0), atol=1e-9)
    assert np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)
    assert stats["action"]["count"] == [63]


@pytest.mark.parametrize("what", ["_write_videos", "_data", "_write_info"])
def test_a_crash_leaves_a_good_data_set(
    dataset: Path, layout: Layout, cameras: tuple[Camera, ...], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    writer = open_writer(dataset, layout, cameras)
    assert writer.episode_keys() == {("press", 100), ("push", 101), ("press", 102)}
    with monkeypatch.context() as patch:
        patch.setattr(DatasetWriter, what, crash)
        with pytest.raises(KeyboardInterrupt):
            writer.write(make_episode(7))
    assert open_lerobot(dataset).num_episodes == 3
    writer = open_writer(dataset, layout, cameras)
    assert writer.write(make_episode(3)) == 3
    writer.finish()
    assert open_lerobot(dataset).info(3).instruction == make_episode(3).instruction
    assert not list(dataset.rglob("*.tmp"))


def test_a_crash_while_encoding_leaves_no_half_file(
    tmp_path: Path, layout: Layout, cameras: tuple[Camera, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    writer = open_writer(tmp_path / "set", layout, cameras)
    with monkeypatch.context() as patch:
        patch.setattr(lerobot_write, "write_rgb", crash)
        with pytest.raises(KeyboardInterrupt):
            writer.write(make_episode(0))
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".mp4", ".tmp")]
    assert open_writer(tmp_path / "set", layout, cameras).write(make_episode(0)) == 0


def test_continuing_with_something_else_is_refused(dataset: Path, layout: Layout, cameras: tuple[Camera, ...]) -> None:
    with pytest.raises(ValueError, match="layout"):
        open_writer(dataset, two_arm_layout("toy"), cameras)
    with pytest.raises(ValueError, match=r"images\.front"):
        open_writer(dataset, layout, (replace(cameras[0], far_m=5.0), cameras[1]))
    with pytest.raises(ValueError, match="fps=20"):
        open_writer(dataset, layout, cameras, hz=10.0)
    with pytest.raises(ValueError, match=r"action_hz=16\.7"):
        open_writer(dataset, layout, cameras, hz=16.7)
    with pytest.raises(ValueError, match="not empty"):
        open_writer(dataset / "videos", layout, cameras)
    writer = open_writer(dataset, layout, cameras)
    with pytest.raises(ValueError, match="depth of cameras"):
        writer.write(replace(make_episode(3), depth={}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.full((24, 16), np.nan)}, "not finite"),
        ({"action": np.zeros((24, 7)), "executed_action": None}, "needs 14 slots"),
        ({"action": np.zeros((23, 14))}, "23 steps"),
        ({"instruction": " "}, "instruction"),
        ({"video": {"front": np.zeros((24, 32, 32, 3), np.uint8)}}, "'wrist' is missing"),
        ({"depth": {"top": np.zeros((24, 32, 32), np.float32)}}, "'top' is not in"),
        ({"depth": {"front": np.full((24, 32, 32), np.nan, np.float32)}}, "NaN"),
        ({"depth": {"front": np.zeros((24, 16, 32), np.float32)}}, "resize"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(
    tmp_path: Path, layout: Layout, cameras: tuple[Camera, ...], change: dict[str, object], message: str
) -> None:
    writer = open_writer(tmp_path / "set", layout, cameras)
    with pytest.raises(ValueError, match=message):
        writer.write(replace(make_episode(0), **change))


def test_damaged_data_sets_are_refused(dataset: Path) -> None:
    video = dataset / "videos/observation.images.front/chunk-000/file-001.mp4"
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    episodes = open_lerobot(dataset)
    with pytest.raises(ValueError, match="damaged"):
        episodes.frames(1, "front", np.array([0]))
    with av.open(str(video), "w") as container:  # whole, but shorter than the episode
        stream = container.add_stream("libx264", rate=20)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="truncated"):
        episodes.frames(1, "front", np.array([2, 12]))
    with pytest.raises(ValueError, match=r"frames 0\.\.20"):
        episodes.frames(1, "front", np.array([21]))
    with pytest.raises(ValueError, match="camera='top'"):
        episodes.frames(1, "top", np.array([0]))
    with pytest.raises(ValueError, match="episode=3"):
        episodes.info(3)
    video.unlink()
    with pytest.raises(FileNotFoundError, match="file-001"):
        open_lerobot(dataset)
    video.write_bytes(whole)
    info_file = dataset / "meta/info.json"
    info = json.loads(info_file.read_text())
    info_file.write_text(json.dumps(info | {"fps": 10}))
    with pytest.raises(ValueError, match="fps=20"):
        open_lerobot(dataset).frames(0, "front", np.array([0]))
    info_file.write_text(json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(ValueError, match=r"v1\.6"):
        open_lerobot(dataset)
    with pytest.raises(FileNotFoundError, match="no LeRobot data set"):
        open_lerobot(dataset / "meta")


def test_files_of_a_mac_are_left_out_and_a_damaged_table_is_named(dataset: Path) -> None:
    folder = dataset / "meta/episodes/chunk-000"
    (folder / "._file-000.parquet").write_bytes(b"what a Mac leaves behind")
    assert open_lerobot(dataset).num_episodes == 3
    path = dataset / "data/chunk-000/file-001.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=r"parquet=.*data/chunk-000/file-001.parquet: cannot be read .*; copy it again"
    ):
        open_lerobot(dataset).info(1)
    (folder / "file-002.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"parquet=.*episodes/chunk-000/file-002.parquet: cannot be read"):
        open_lerobot(dataset)


def test_a_file_system_without_locks_is_not_another_process(
    tmp_path: Path, layout: Layout, cameras: tuple[Camera, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_writer(tmp_path / "set", layout, cameras)

    def answers(number: int):
        def fails(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(lerobot_write.fcntl, "lockf", fails)

    for number in (errno.EACCES, errno.EAGAIN):
        answers(number)
        with pytest.raises(ValueError, match="another process is writing here"):
            open_writer(tmp_path / "set", layout, cameras)
    for number in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
        answers(number)
        with pytest.raises(ValueError, match=r"cannot be locked \(.*\), .* a disk whose file system has locks"):
            open_writer(tmp_path / "set", layout, cameras)
    writer.finish()


def test_nan_in_a_file_is_refused(dataset: Path, layout: Layout) -> None:
    path = dataset / "data/chunk-000/file-002.parquet"
    table = pq.read_table(path)
    states = np.stack(table["observation.state"].to_numpy())
    states[4, 2] = np.nan
    index = table.schema.get_field_index("observation.state")
    column = lerobot_write._array(states, table.schema.field(index).type)
    pq.write_table(table.set_column(index, table.schema.field(index), column), path)
    with pytest.raises(ValueError, match=r"episode=2.*\[4, 2\]"):
        open_lerobot(dataset).info(2)


def test_the_fingerprint_follows_the_content(dataset: Path, layout: Layout, cameras: tuple[Camera, ...]) -> None:
    first = open_lerobot(dataset).fingerprint
    assert open_lerobot(dataset).fingerprint == first
    writer = open_writer(dataset, layout, cameras)
    writer.finish()
    assert open_lerobot(dataset).fingerprint == first
    writer = open_writer(dataset, layout, cameras)
    writer.write(make_episode(3))
    assert open_lerobot(dataset).fingerprint != first


def test_a_data_set_written_by_lerobot() -> None:
    """Many episodes per file, other codecs; made by lerobot_conformance.py with LeRobot 0.4.4."""
    root = Path(__file__).parent / "fixtures/lerobot_v3"
    episodes = open_lerobot(root, layout=two_arm_layout("toy", single_arm=True))
    lengths = [episodes.length(i) for i in range(episodes.num_episodes)]
    assert lengths == [12, 9, 10]
    assert [camera.name for camera in episodes.cameras] == ["front", "wrist"]
    for number, length in enumerate(lengths):
        expected, info = make_episode(number, length), episodes.info(number)
        assert info.instruction == info.task == expected.instruction
        np.testing.assert_array_equal(info.action, expected.action.astype(np.float32))
    assert episodes.depth(0, "front", np.array([0])) is None
    seen = np.load(root / "seen_by_lerobot.npz")
    for row, images in zip(seen["rows"].tolist(), seen["frames"], strict=True):
        number = int(np.searchsorted(np.cumsum(lengths), row, side="right"))
        step = np.array([row - sum(lengths[:number])])
        for name, image in zip(("front", "wrist"), images, strict=True):
            np.testing.assert_array_equal(episodes.frames(number, name, step)[0], image)
    with pytest.raises(ValueError, match="layout="):
        open_lerobot(root)
    narrow = replace(two_arm_layout("toy"), state=two_arm_layout("toy").state[:3])
    with pytest.raises(ValueError, match=r"needs \[8\]"):
        open_lerobot(root, layout=narrow)
    with pytest.raises(ValueError, match="64 x 64"):
        open_lerobot(root, layout=two_arm_layout("toy"), cameras=[Camera(name="front", width=64, height=64)])


def test_writing_needs_no_torch() -> None:
    code = "import sys, xwam.data.lerobot; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lerobot_reads_what_we_write(tmp_path: Path) -> None:
    pytest.importorskip("lerobot", reason="LeRobot lives in its own environment: see lerobot_conformance.py")
    from tests.data.lerobot_conformance import check

    check(tmp_path / "set")


def test_a_refused_first_episode_leaves_no_trace(
    tmp_path: Path, layout: Layout, cameras: tuple[Camera, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, episode = open_writer(tmp_path / "set", layout, cameras), make_episode(0)
    floats = replace(episode, depth={})
    object.__setattr__(floats, "video", {name: frames / 255 for name, frames in episode.video.items()})
    with pytest.raises(ValueError, match=r"video\['front'\] has dtype=float64.*must be uint8 N H W 3"):
        writer.write(floats)
    real = lerobot_write.write_rgb

    def full(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(lerobot_write, "write_rgb", full)
    with pytest.raises(OSError, match="disk"):
        writer.write(replace(episode, depth={}))
    monkeypatch.setattr(lerobot_write, "write_rgb", real)
    assert writer.write(episode) == 0, "depth is what the first written episode has"
    writer.finish()
    assert open_lerobot(tmp_path / "set").depth(0, "front", np.array([0])) is not None


def test_rotations_must_be_rotations(tmp_path: Path, layout: Layout, cameras: tuple[Camera, ...]) -> None:
    episode = make_episode(0)
    state = episode.state.copy()
    state[3, 3] = 3.0
    with pytest.raises(ValueError, match="state left_rotation has norm=3: must be a unit quaternion"):
        open_writer(tmp_path / "set", layout, cameras).write(replace(episode, state=state))
