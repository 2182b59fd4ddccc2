"""HDF5 files of ALOHA, LIBERO, robomimic and RoboTwin through their robot.json: numbers, pictures, words, mistakes."""

import io
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.data.foreign import SIZE, STEPS, path_of, pictures
from tests.data.hdf5_sets import EPISODES, WORDS, joints, robot, write_aloha, write_robomimic, write_robotwin
from xwam.check.data import check_data
from xwam.config import ClipConfig
from xwam.data.clips import Clips
from xwam.data.hdf5_index import hdf5_files
from xwam.data.opening import open_data
from xwam.robot.actions import apply_deltas

SOME = np.array([7, 0, 7, STEPS - 2])


def with_depth(which):
    """RoboTwin's robot.json for files with depth, as docs/extend.md says."""
    keys = [camera.key.replace("/rgb", "/depth") for camera in which.cameras]
    cameras = (replace(camera, depth_key=key, depth_unit="mm") for camera, key in zip(which.cameras, keys, strict=True))
    return replace(which, cameras=tuple(cameras))


def wrong(root, which) -> str:
    """All that the checks call wrong, in one text."""
    return "\n".join(f"{f.check}: {f.text}" for f in check_data(root, which) if f.level == "wrong")


def expect_path(info, number: int, first: int, arm: slice, act: slice) -> None:
    """The arm's own path, from frame ``first`` on: states as they are, actions that lead along it."""
    position, turn, opening = path_of(number)
    state, action = info.state[:, arm], info.action[:, act]
    steps = len(state)
    np.testing.assert_allclose(state[:, :3], position[first : first + steps], atol=1e-6)
    quats = turn[first : first + steps].as_quat(canonical=True, scalar_first=True)
    np.testing.assert_allclose(state[:, 3:7], quats, atol=1e-6)
    np.testing.assert_allclose(state[:, 7], opening[first : first + steps], atol=1e-6)
    count = len(action)
    reached = apply_deltas(state[:count, :3], state[:count, 3:7], action[:, :6])
    np.testing.assert_allclose(reached[0], position[first + 1 : first + 1 + count], atol=1e-5)
    np.testing.assert_allclose(action[:, 6], 2 * opening[first + 1 : first + 1 + count] - 1, atol=1e-5)


def test_aloha(tmp_path):
    episodes = open_data(write_aloha(tmp_path / "set"), robot=robot("aloha"))
    assert (episodes.num_episodes, episodes.action_hz, episodes.length(0)) == (EPISODES, 25.0, STEPS // 2)
    for number in range(EPISODES):
        rows, info = joints(number), episodes.info(number)
        ours = rows.copy()
        np.testing.assert_allclose(info.state[:, :14], ours[:-1:2], atol=1e-6)
        ours[:, [6, 13]] = 2 * ours[:, [6, 13]] - 1
        np.testing.assert_allclose(info.action, ours[2::2], atol=1e-6)  # the target of an action's second frame
        assert info.instruction == f"fold towel {number}"
        film = pictures(number)["cam_high"]
        np.testing.assert_array_equal(episodes.frames(number, "high", SOME // 2), film[SOME // 2 * 2])


@pytest.mark.parametrize("padded", [True, False])
def test_jpegs_padded_and_of_any_length(tmp_path, padded):
    root = write_aloha(tmp_path / "set", compressed=True, padded=padded)
    episodes = open_data(root, robot=robot("aloha"))
    assert episodes.fingerprint == open_data(root, robot=robot("aloha")).fingerprint
    for camera, film in (("high", "cam_high"), ("left_wrist", "cam_wrist")):
        frames = episodes.frames(1, camera, SOME // 2)
        assert np.abs(frames.astype(int) - pictures(1)[film][SOME // 2 * 2]).mean() < 2


@pytest.mark.parametrize("is_libero", [False, True])
def test_robomimic_and_libero(tmp_path, is_libero):
    which = robot("libero" if is_libero else "robomimic")
    path = write_robomimic(tmp_path / "tasks/open_drawer_demo.hdf5", is_libero=is_libero, episodes=11)
    if not is_libero:
        which = replace(which, instruction="lift the cube")
    for root in (path, path.parent):
        episodes = open_data(root, robot=which)
        assert [row.group for row in episodes.rows] == [f"/data/demo_{n}" for n in range(11)], "in counting order"
    first = 1 if is_libero else 0
    for number in (0, 10):
        info = episodes.info(number)
        assert (len(info.state), len(info.action)) == ((STEPS - 1, STEPS - 2) if is_libero else (STEPS, STEPS))
        expect_path(info, number, first, slice(0, 8), slice(0, 7))
        assert info.instruction == ("open the drawer" if is_libero else "lift the cube")
        for camera, film in (("agentview", "cam_high"), ("wrist", "cam_wrist")):
            seen = episodes.frames(number, camera, SOME)
            np.testing.assert_array_equal(seen, pictures(number)[film][first:][SOME], err_msg="upright, in any order")
    assert wrong(path, which) == ""


def test_robotwin(tmp_path):
    root = write_robotwin(tmp_path / "lift_pot/demo_clean")
    which = with_depth(robot("robotwin"))
    episodes = open_data(root, robot=which)
    for number in range(EPISODES):
        info = episodes.info(number)
        assert (len(info.state), len(info.action)) == (STEPS, STEPS - 1), "nothing follows the last frame"
        expect_path(info, number, 0, slice(0, 8), slice(0, 7))
        expect_path(info, number + 10, 0, slice(8, 16), slice(7, 14))
        assert info.instruction == WORDS[number], "another wording for each"
        assert info.task == "lift_pot", "of the same task"
        frames = episodes.frames(number, "head", SOME)
        assert np.abs(frames.astype(int) - pictures(number)["cam_high"][SOME]).mean() < 2, "red is red"
        depth = episodes.depth(number, "left_wrist", SOME)
        assert depth.dtype == np.float32
        assert depth[0, 5, 5] == np.float32(1.5)
        assert (depth[:, 0, :2] == 0).all(), "0 and NaN are unknown"
        assert episodes.has_measured_depth(number, "head")
    swapped = open_data(
        root, robot=replace(which, cameras=tuple(replace(c, channel_order="rgb") for c in which.cameras))
    )
    assert np.abs(swapped.frames(0, "head", SOME).astype(int) - pictures(0)["cam_high"][SOME]).mean() > 10
    assert wrong(root, which) == ""


def test_clips_of_the_end_have_no_actions(tmp_path):
    episodes = open_data(write_robotwin(tmp_path / "set"), robot=with_depth(robot("robotwin")))
    config = ClipConfig(
        num_frames=5, height_px=SIZE, width_px=SIZE, action_horizon=16, actions_per_frame=4, action_hz=16.667, crop=0.9
    )
    clips = Clips(episodes, config, ("head", "left_wrist", "right_wrist"), split="all")
    last = clips.at(0, STEPS - 8)
    assert last.action_mask.tolist() == [True] * 7 + [False] * 9, "the eighth frame is the last: nothing follows it"
    assert last.state_mask.tolist() == [True, True, False, False, False]
    assert last.depth is not None


def test_failures_and_marks(tmp_path):
    root = write_aloha(tmp_path / "set")
    with h5py.File(root / "episode_1.hdf5", "a") as file:
        file.attrs["success"] = False
    with h5py.File(root / "episode_2.hdf5", "a") as file:
        file["is_demonstration"] = np.arange(STEPS) < 11
    which = robot("aloha")
    episodes = open_data(root, robot=which)
    assert episodes.demonstrated(0) is None
    assert not episodes.demonstrated(1).any()
    assert episodes.demonstrated(2).tolist() == [True] * 5 + [False] * (STEPS // 2 - 5), "whole actions only"
    later = open_data(root, robot=replace(which, action_ahead=1, frames_per_action=1, action_hz=50.0))
    assert later.demonstrated(2).tolist() == [True] * 10 + [False] * (STEPS - 10), "marks are of actions: fetched alike"
    with h5py.File(root / "episode_2.hdf5", "a") as file:
        del file["is_demonstration"]
        file["is_demonstration"] = np.ones(STEPS - 2)
    with pytest.raises(
        ValueError, match=rf"'is_demonstration' in episode_2.hdf5 .* has shape \({STEPS - 2},\): one per row"
    ):
        open_data(root, robot=which).demonstrated(2)
    with h5py.File(root / "episode_1.hdf5", "a") as file:
        file.attrs["success"] = "False"
    with pytest.raises(
        ValueError, match=r"episode_1.hdf5 group='/' attribute 'success' is 'False': must be true or false"
    ):
        open_data(root, robot=which)


def test_the_fingerprint_is_of_the_numbers(tmp_path):
    root, which = write_aloha(tmp_path / "set"), robot("aloha")
    before = open_data(root, robot=which).fingerprint
    assert open_data(root, robot=which).fingerprint == before
    assert open_data(root, robot=replace(which, action_ahead=1)).fingerprint != before
    for key in ("action", "observations/images/cam_high"):  # in place: no file changes its size
        with h5py.File(root / "episode_1.hdf5", "a") as file:
            file[key][STEPS // 2] += 1
        after = open_data(root, robot=which).fingerprint
        assert after != before
        before = after


def test_actions_that_stand_a_row_later_are_found(tmp_path):
    """Where states are the actions it is certain; where they were written after them, a person should look."""
    twin, libero = write_robotwin(tmp_path / "twin"), write_robomimic(tmp_path / "libero/x.hdf5", is_libero=True)
    for part in ("left_position", "left_rotation"):
        found = wrong(twin, replace(robot("robotwin"), action_ahead=0))
        assert f"timing of {part!r}: states move before they are told to: action_ahead=1 fits better" in found
        looks = [
            f.text
            for f in check_data(libero, replace(robot("libero"), action_ahead=0))
            if f.check == f"timing of {part!r}"
        ]
        assert looks[0].startswith("action_ahead=1 fits a little better (correlation 1.000, as written 0.98")
        assert not any("action_ahead" in f.text for f in check_data(libero, robot("libero")))


def test_missing_rows_and_cameras_are_found(tmp_path):
    root, which = write_aloha(tmp_path / "set"), robot("aloha")
    with h5py.File(root / "episode_1.hdf5", "a") as file:
        film = file["observations/images/cam_high"][: STEPS - 3]
        del file["observations/images/cam_high"], file["observations/images/cam_left_wrist"]
        file["observations/images/cam_high"] = film
    text = wrong(root, which)
    assert f"episode 1 (episode_1.hdf5/) has {STEPS - 3} rows of 'observations/images/cam_high', not {STEPS}" in text
    assert f"has 0 rows of 'observations/images/cam_left_wrist', not {STEPS}" in text
    with pytest.raises(
        ValueError, match=rf"cam_high' in episode_1.hdf5 .* has {STEPS - 3} rows, the episode {STEPS}: copy"
    ):
        open_data(root, robot=which).frames(1, "high", np.array([STEPS // 2 - 1]))
    high, left, right = which.cameras
    lenient = replace(which, cameras=(high, replace(left, may_be_missing=True), right))
    assert open_data(root, robot=lenient).frames(1, "left_wrist", np.array([0])) is None
    assert any(f.level == "look" and "left_wrist in 1 of 3" in f.text for f in check_data(root, lenient))


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    root, which = write_aloha(tmp_path / "set", words=False), robot("aloha")
    with pytest.raises(FileNotFoundError, match=r"neither a LeRobot data set \(meta/info.json\) nor HDF5 files"):
        open_data(tmp_path / "nothing", robot=which)
    with pytest.raises(ValueError, match=r"holds HDF5 files: pass robot="):
        open_data(root)
    with pytest.raises(ValueError, match=r"episode_0.hdf5 group='/' has no words .* give robot.json an instruction"):
        open_data(root, robot=which)
    which = replace(which, instruction="fold the towel")
    part = replace(which.state[0], key="observations/qvel")
    with pytest.raises(ValueError, match=r"key='observations/qvel' is not in .*: did you mean 'observations/qpos'"):
        open_data(root, robot=replace(which, state=(part, *which.state[1:])))
    wide = replace(which.state[-1], start=14)
    with pytest.raises(ValueError, match=r"reads slots 14..14 of 'observations/qpos': the data set has 14 there"):
        open_data(root, robot=replace(which, state=(*which.state[:-1], wide)))
    camera = replace(which.cameras[0], key="action")
    with pytest.raises(
        ValueError, match=r"key='action' in episode_0.hdf5 .* has shape \(1, 14\), dtype=float64: must be pictures"
    ):
        open_data(root, robot=replace(which, cameras=(camera,)))
    deep = replace(which.cameras[0], depth_key="observations/qpos")
    with pytest.raises(ValueError, match=r"depth_key='observations/qpos' .* must be N x H x W numbers"):
        open_data(root, robot=replace(which, cameras=(deep,)))
    path = write_robomimic(tmp_path / "other/image.hdf5", control_freq=50)
    with pytest.raises(ValueError, match=r"control_freq=50: .* is 20; correct it"):
        open_data(path, robot=robot("robomimic"))
    with pytest.raises(ValueError, match="action_ahead=-1"):
        replace(which, action_ahead=-1)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'xwam\[hdf5\]'"):
        open_data(root, robot=which)


def test_a_damaged_file_says_so(tmp_path):
    root, which = write_aloha(tmp_path / "set"), robot("aloha")
    path = hdf5_files(root)[2]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"episode_2.hdf5: cannot be read .* copy it again"):
        open_data(root, robot=which)


def test_depth_in_whole_numbers_needs_its_unit(tmp_path):
    root = write_robotwin(tmp_path / "set")
    which = with_depth(robot("robotwin"))
    for path in hdf5_files(root):
        with h5py.File(path, "a") as file:
            del file["observation/head_camera/depth"]
            file["observation/head_camera/depth"] = np.full((STEPS, SIZE, SIZE, 1), 700, np.uint16)
    head = which.cameras[0]
    depth = open_data(root, robot=which).depth(0, "head", np.array([3]))
    assert depth.shape == (1, SIZE, SIZE)
    assert depth[0, 0, 0] == np.float32(0.7)
    buffer = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE), 900, np.uint16)).save(buffer, "PNG")
    with h5py.File(root / "data/episode0.hdf5", "a") as file:
        del file["observation/head_camera/depth"]
        file["observation/head_camera/depth"] = np.array([buffer.getvalue()] * STEPS)
    assert open_data(root, robot=which).depth(0, "head", np.array([3]))[0, 0, 0] == np.float32(0.9), "16-bit PNGs"
    with h5py.File(root / "data/episode0.hdf5", "a") as file:
        del file["observation/head_camera/depth"]
        file["observation/head_camera/depth"] = file["observation/head_camera/rgb"][()]
    with pytest.raises(ValueError, match=r"depth_key=.*: a depth picture is .*: must be 16-bit grey"):
        open_data(root, robot=which)
    (root / "data/episode0.hdf5").unlink()
    with pytest.raises(ValueError, match=r"has whole numbers and depth_unit='m': say depth_unit='mm'"):
        open_data(root, robot=replace(which, cameras=(replace(head, depth_unit="m"), *which.cameras[1:])))
