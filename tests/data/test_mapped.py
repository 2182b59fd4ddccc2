"""Data sets of others through a robot.json: numbers in our units, cameras that come and go, pictures in columns."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.foreign import (
    ARM,
    EPISODES,
    FPS,
    SIZE,
    STEPS,
    change_columns,
    copy_of,
    path_of,
    pictures,
    video_of,
    write_foreign,
)
from xwam.check.data import check_data
from xwam.config import ClipConfig
from xwam.data.augment import augment
from xwam.data.clips import Clips
from xwam.data.lerobot import open_lerobot
from xwam.images import GREY
from xwam.robot.actions import apply_deltas
from xwam.robot.robot_json import RobotConfig

CLIP = ClipConfig(
    num_frames=5, height_px=SIZE, width_px=SIZE, action_horizon=16, actions_per_frame=4, action_hz=float(FPS), crop=0.9
)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return write_foreign(tmp_path_factory.mktemp("mapped") / "theirs")


def test_their_numbers_become_ours(foreign):
    episodes = open_lerobot(foreign, robot=ARM)
    assert (episodes.num_episodes, episodes.action_hz) == (EPISODES, FPS)
    for number in range(2):
        position, turn, opening = path_of(number)
        info = episodes.info(number)
        np.testing.assert_allclose(info.state[:, :3], position[:-1], atol=1e-6)
        np.testing.assert_allclose(info.state[:, 3:7], turn[:-1].as_quat(canonical=True, scalar_first=True), atol=1e-6)
        np.testing.assert_allclose(info.state[:, 7], opening[:-1], atol=1e-6)
        reached = apply_deltas(info.state[:, :3], info.state[:, 3:7], info.action[:, :6])
        np.testing.assert_allclose(reached[0], position[1:], atol=1e-6)
        np.testing.assert_allclose(reached[1], turn[1:].as_quat(canonical=True, scalar_first=True), atol=1e-5)
        np.testing.assert_allclose(info.action[:, 6], 2 * opening[1:] - 1, atol=1e-5)
        assert (info.action[:, 7:] == 0).all()
        assert info.instruction == f"pick up cup {number % 2}"


def test_the_same_set_at_half_the_rate(foreign):
    slow = open_lerobot(foreign, robot=replace(ARM, action_hz=FPS / 2, frames_per_action=2))
    fast = open_lerobot(foreign, robot=ARM)
    assert (slow.action_hz, slow.length(0)) == (FPS / 2, STEPS // 2)
    position, _, _ = path_of(0)
    info = slow.info(0)
    np.testing.assert_allclose(info.state[:, :3] + info.action[:, :3], position[2::2], atol=1e-6)
    np.testing.assert_array_equal(
        slow.frames(0, "front", np.array([1, 17])), fast.frames(0, "front", np.array([2, 34]))
    )
    assert slow.fingerprint != fast.fingerprint
    with pytest.raises(ValueError, match="episode 0 has frames 0"):
        slow.frames(0, "front", np.array([18]))


def test_an_episode_that_is_shorter_than_one_action_has_none(foreign):
    every = STEPS + 1
    slowest = open_lerobot(foreign, robot=replace(ARM, action_hz=FPS / every, frames_per_action=every))
    assert slowest.info(0).action.shape == (0, 14)
    clip = Clips(slowest, replace(CLIP, action_hz=FPS / every), ("front",)).at(0, 0)
    assert not clip.action_mask.any()
    assert clip.video_mask.tolist() == [[True, False, False, False, False]]


def test_their_marks_say_which_actions_count(foreign, tmp_path):
    """A column is_demonstration, as where a person corrects a policy; of two frames of one action both must count."""
    root = copy_of(foreign, tmp_path / "marked")
    change_columns(root, lambda _, columns: columns.update(is_demonstration=columns["frame_index"] % 6 != 5))
    assert open_lerobot(foreign, robot=ARM).demonstrated(1).all()
    fast = open_lerobot(root, robot=ARM)
    np.testing.assert_array_equal(fast.demonstrated(1), np.arange(STEPS) % 6 != 5)
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["is_demonstration"]
    (root / "meta/info.json").write_text(json.dumps(info))
    undeclared = open_lerobot(root, robot=ARM)
    assert undeclared.demonstrated(1) is None
    assert undeclared.fingerprint != fast.fingerprint, "latents that were made of the one are not taken for the other's"
    slow = open_lerobot(copy_of(foreign, tmp_path / "slow"), robot=replace(ARM, action_hz=FPS / 2, frames_per_action=2))
    change_columns(slow.root, lambda _, columns: columns.update(is_demonstration=columns["frame_index"] % 6 != 5))
    np.testing.assert_array_equal(slow.demonstrated(1), np.arange(STEPS // 2) % 3 != 2)


def test_a_person_who_corrects_a_policy_is_imitated_and_the_policy_is_not(foreign, tmp_path):
    """LeRobot's own column of such recordings; where both are there, is_demonstration says more."""
    root = copy_of(foreign, tmp_path / "corrected")
    change_columns(root, lambda _, columns: columns.update(is_demonstration=columns["frame_index"] >= 5))
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        names = ["intervention" if name == "is_demonstration" else name for name in table.column_names]
        pq.write_table(table.rename_columns(names), path)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["intervention"] = mark = info["features"].pop("is_demonstration")
    (root / "meta/info.json").write_text(json.dumps(info))
    corrected = open_lerobot(root, robot=ARM)
    np.testing.assert_array_equal(corrected.demonstrated(1), np.arange(STEPS) >= 5)
    del info["features"]["intervention"]
    (root / "meta/info.json").write_text(json.dumps(info))
    assert open_lerobot(root, robot=ARM).demonstrated(1) is None
    assert open_lerobot(root, robot=ARM).fingerprint != corrected.fingerprint
    info["features"] |= {"intervention": mark, "is_demonstration": mark}
    (root / "meta/info.json").write_text(json.dumps(info))
    assert open_lerobot(root, robot=ARM).marked_by == "is_demonstration"


def test_cameras_get_our_names_and_may_be_turned(foreign):
    plain = open_lerobot(foreign, robot=ARM)
    head = replace(ARM.cameras[0], upside_down=True)
    turned = open_lerobot(foreign, robot=replace(ARM, cameras=(head, ARM.cameras[1])))
    seen = plain.frames(1, "front", np.arange(4))
    assert np.abs(seen.astype(float) - pictures(1)["cam_high"][:4]).mean() < 8
    np.testing.assert_array_equal(turned.frames(1, "front", np.arange(4)), seen[:, ::-1, ::-1])
    assert [camera.name for camera in plain.cameras] == ["front", "wrist"]
    assert plain.depth(0, "front", np.arange(2)) is None


def test_what_does_not_fit_is_refused_before_anything_is_read(foreign):
    front = ARM.cameras[0]
    for robot, message in (
        (replace(ARM, action_hz=30.0), "says action_hz=30 times frames_per_action=1"),
        (replace(ARM, state=(*ARM.state[:2], replace(ARM.state[2], start=8))), "reads slots 8..8"),
        (replace(ARM, cameras=(replace(front, key="observation.images.cam_hihg"),)), "did you mean 'observation.im"),
    ):
        with pytest.raises(ValueError, match=message):
            open_lerobot(foreign, robot=robot)
    with pytest.raises(ValueError, match="pass robot="):
        open_lerobot(foreign)


def test_an_episode_may_lack_a_camera(foreign, tmp_path):
    root = copy_of(foreign, tmp_path / "set")
    video_of(root, "cam_wrist", 2).unlink()
    with pytest.raises(FileNotFoundError, match="cam_wrist"):
        open_lerobot(root, robot=ARM)
    robot = replace(ARM, cameras=(ARM.cameras[0], replace(ARM.cameras[1], may_be_missing=True)))
    episodes = open_lerobot(root, robot=robot)
    assert episodes.frames(2, "wrist", np.array([0])) is None
    assert episodes.frames(1, "wrist", np.array([0])) is not None
    clip = augment(Clips(episodes, CLIP, ("front", "wrist")).at(2, 0), np.random.default_rng(0), crop=0.9)
    assert clip.video_mask.tolist() == [[True] * 5, [False] * 5]
    assert (clip.video[1] == GREY).all()
    assert (clip.video[0] != GREY).any()


def test_a_data_set_may_lack_a_view_of_the_model(foreign):
    clip = Clips(open_lerobot(foreign, robot=ARM), CLIP, ("front", "left", "wrist"), absent=("left",)).at(0, 4)
    assert clip.video_mask[:, 0].tolist() == [True, False, True]
    assert (clip.video[1] == GREY).all()
    assert not clip.cameras[1].is_calibrated
    with pytest.raises(ValueError, match="camera='left'"):
        Clips(open_lerobot(foreign, robot=ARM), CLIP, ("front", "left"))


def test_pictures_in_columns_are_read(foreign, tmp_path):
    """Features of dtype image: PNG files in the parquet file."""
    image = pytest.importorskip("PIL.Image", reason="pip install 'xwam[view]'")
    root = copy_of(foreign, tmp_path / "set")
    key = "observation.images.cam_high"
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][key] |= {"dtype": "image", "info": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    for number in range(EPISODES):
        path = root / f"data/chunk-000/file-{number:03d}.parquet"
        files = []
        for frame in pictures(number)["cam_high"]:
            file = io.BytesIO()
            image.fromarray(frame).save(file, "PNG")
            files.append({"bytes": file.getvalue(), "path": None})
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pq.write_table(pq.read_table(path).append_column(key, pa.array(files, kind)), path)
    episodes = open_lerobot(root, robot=ARM)
    np.testing.assert_array_equal(episodes.frames(1, "front", np.array([5, 0])), pictures(1)["cam_high"][[5, 0]])
    np.testing.assert_allclose(episodes.info(1).state[:, :3], path_of(1)[0][:-1], atol=1e-6)
    damaged = [*files[:5], {"bytes": None, "path": "images/5.png"}, None, *files[7:20]]
    table = pq.read_table(path).drop_columns([key])
    column = pa.array([*damaged, *[None] * (STEPS - len(damaged))], kind)
    pq.write_table(table.append_column(key, column), path)
    for step in (5, 6, STEPS - 1):
        with pytest.raises(ValueError, match=r"episode=3 of .* key=.*cam_high': a picture of 0 bytes cannot be read"):
            open_lerobot(root, robot=ARM).frames(3, "front", np.array([step]))
    pq.write_table(table.append_column(key, column).slice(0, 20), path)
    with pytest.raises(ValueError, match=rf"episode=3 of .* key=.*cam_high' has 20 pictures, not {STEPS}: copy it"):
        open_lerobot(root, robot=ARM).frames(3, "front", np.array([STEPS - 1]))
    found = [finding for finding in check_data(root, ARM) if finding.level == "wrong"]
    assert any("has 20 pictures" in finding.text for finding in found), "the checks say so as well"


def test_words_for_a_data_set_without_any(foreign, tmp_path):
    root = copy_of(foreign, tmp_path / "set")
    path = root / "meta/episodes/chunk-000/file-001.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("tasks")
    pq.write_table(table.set_column(place, "tasks", pa.array([[""]])), path)
    with pytest.raises(ValueError, match="it needs words"):
        open_lerobot(root, robot=ARM)
    robot: RobotConfig = replace(ARM, instruction="pick up the cup")
    assert open_lerobot(root, robot=robot).info(1).instruction == "pick up the cup"
