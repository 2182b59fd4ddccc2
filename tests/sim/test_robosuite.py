import sys

import numpy as np
import pytest

pytest.importorskip("robosuite", reason="make robosuite")

from tests.sim.mujoco_sims import assert_asking_changes_nothing, assert_known, assert_same, muj_pose, our_pose, play
from xwam.check.data import check_data
from xwam.data.lerobot import open_lerobot
from xwam.robot.rotations import matrix_from_quat, vector_from_matrix
from xwam.sim.collect import Recording, collect
from xwam.sim.record import record_wandering
from xwam.sim.robosuite import HANDS, LAYOUTS, MAX_DELTA_M, MAX_LEAD, TASKS, make_robosuite

SIZE = 32


@pytest.fixture(scope="module", params=list(TASKS))
def env(request):
    env = make_robosuite(request.param, width_px=SIZE, height_px=SIZE)
    yield env
    env.close()


@pytest.fixture(scope="module")
def pair():
    env = make_robosuite("TwoArmLift", width_px=SIZE, height_px=SIZE)
    yield env
    env.close()


def hold(env, steps, **parts):
    """The same action again and again; ``left_position=…``: its parts."""
    action = np.zeros(env.layout.action_width)
    for name, value in parts.items():
        action[env.layout.action_slice(name)] = value
    for _ in range(steps):
        env.step(action)


def test_what_is_known_before_a_task_is_opened_is_so(env):
    assert_known("robosuite", env)


def test_task_opens_moves_and_looks(env):
    seen = play(env, 1, 1)
    assert set(seen.images) == set(env.cameras)
    assert all(image.shape == (SIZE, SIZE, 3) and image.std() > 5 for image in seen.images.values())
    for name, camera in env.cameras.items():
        known = seen.depth[name][seen.depth[name] > 0]
        assert len(known) > 0.4 * SIZE**2
        assert known.min() > camera.near_m, "something is nearer than the camera's range"
    assert seen.instruction in TASKS[env.task].wordings
    assert all(len(words.encode()) <= 62 for words in TASKS[env.task].wordings), "small text encoders would cut the end"
    env.layout.check_quaternions(seen.state)
    assert seen.state[8:].any() == (env.layout is LAYOUTS[2])


def test_expert_succeeds(env):
    for seed in (1, 2, 3):
        env.reset(seed)
        assert any(env.step(env.expert_action()) for _ in range(env.max_steps))


def test_same_seed_same_episode(env):
    first = play(env, 3, 12)
    play(env, 8, 30)
    again = play(env, 3, 12)
    other = make_robosuite(env.task, width_px=SIZE, height_px=SIZE)
    for second in (again, play(other, 3, 12)):
        assert_same(first, second)
    other.close()


def test_every_seed_is_another_placement(env):
    places = []
    for seed in range(8):
        env.reset(seed)
        free = [j for j in range(env._model.njnt) if env._model.joint(j).type == 0]  # what lies on the table
        assert free
        places.append(tuple(np.concatenate([env._data.joint(j).qpos for j in free]).round(3)))
    assert len(set(places)) == 8


def test_asking_the_expert_changes_nothing(env):
    action = np.zeros(env.layout.action_width)
    action[env.layout.action_slice("left_position")] = 0.01, -0.01, -0.01
    assert_asking_changes_nothing(env, env._data, action)


def test_every_camera_is_where_its_calibration_says(env):
    seen = play(env, 2, 25)  # the hands are turned by now
    for name in env.cameras:
        real = muj_pose(env._data, env._views[name].mujoco_name)
        np.testing.assert_allclose(our_pose(env, name, seen.state), real, atol=1e-5)


def test_a_hand_at_rest_has_the_axes_of_the_base(env):
    env.reset(0)
    for hand in env.hands():
        assert np.linalg.norm(vector_from_matrix(matrix_from_quat(hand.quat))) < np.deg2rad(15)


def test_an_action_moves_its_own_hand_by_its_metres_and_radians(pair):
    pair.reset(0)
    before = pair.hands()
    hold(pair, 10, right_position=(0.01, 0.005, -0.002), right_rotation=(0.0, 0.02, 0.03))
    hold(pair, 10)
    left, right = pair.hands()
    np.testing.assert_allclose(right.position - before[1].position, [0.1, 0.05, -0.02], atol=0.004)
    turned = vector_from_matrix(matrix_from_quat(right.quat) @ matrix_from_quat(before[1].quat).T)
    np.testing.assert_allclose(turned, [0.0, 0.2, 0.3], atol=0.03)
    np.testing.assert_allclose(left.position, before[0].position, atol=0.003)


def test_the_first_arm_is_the_left_one_and_takes_the_first_handle(pair):
    pair.reset(0)
    left, right = (pair.state()[pair.layout.state_slice(f"{hand}_position")] for hand in HANDS)
    assert left[1] < 0 < right[1]
    assert np.linalg.norm(left - pair._raw._handle0_xpos) < np.linalg.norm(left - pair._raw._handle1_xpos)


def test_too_large_actions_are_clipped(pair):
    pair.reset(0)
    before = pair._commanded[0][0].copy()
    hold(pair, 1, left_position=(1.0, -1.0, 0.0), left_rotation=(0, 0, 3.0))
    moved = pair._commanded[0][0] - before
    np.testing.assert_allclose(np.abs(moved), [MAX_DELTA_M, MAX_DELTA_M, 0], atol=1e-6)


def test_a_hand_that_is_held_back_does_not_jump_later(pair):
    pair.reset(0)
    hold(pair, 60, left_position=(0, 0, -MAX_DELTA_M))  # into the table
    hand = pair.hands()[0]
    assert hand.position[2] - pair._commanded[0][0][2] <= MAX_LEAD[0] + 1e-6
    hold(pair, 10, left_position=(0, 0, MAX_DELTA_M))
    assert pair.hands()[0].position[2] > hand.position[2] + 0.05


def test_gripper_closes_and_opens(pair):
    pair.reset(0)
    hold(pair, 15, left_gripper=1.0, right_gripper=-1.0)
    left, right = pair.hands()
    assert left.opening < 0.05
    assert right.opening > 0.9
    hold(pair, 15, left_gripper=-1.0)
    assert pair.hands()[0].opening > 0.9


def test_both_hands_wander_and_turn_on_their_own_sides(pair):
    episode = record_wandering(pair, 1)
    assert not episode.success
    for hand, (low, high) in zip(HANDS, pair.workspaces, strict=True):
        places = episode.state[:, pair.layout.state_slice(f"{hand}_position")]
        assert np.ptp(places, axis=0).max() > 0.1
        assert (places > low - 0.12).all()
        assert (places < high + 0.12).all()
        turns = episode.action[:, pair.layout.action_slice(f"{hand}_rotation")]
        assert np.ptp(turns[:, 2]) > 0.05


def test_a_recording_says_what_was_done(tmp_path):
    """The doctor integrates the actions of both hands, rotations too, and holds them against the states."""
    assert collect(tmp_path, ["TwoArmLift"], 2, Recording(width_px=SIZE, height_px=SIZE, simulator="robosuite")) == 2
    episodes = open_lerobot(tmp_path)
    assert [camera.name for camera in episodes.cameras] == ["front", "wrist", "right_wrist"]
    assert [camera.hand for camera in episodes.cameras] == ["left", "left", "right"]
    assert episodes.layout == LAYOUTS[2]
    findings = check_data(tmp_path)
    assert [finding for finding in findings if finding.level == "wrong"] == []
    fine = {finding.check for finding in findings if finding.level == "fine"}
    assert {f"action '{hand}_{part}'" for hand in HANDS for part in ("position", "rotation")} <= fine
    with pytest.raises(ValueError, match="Stack has another robot than TwoArmLift"):
        collect(tmp_path / "both", ["TwoArmLift", "Stack"], 1, Recording(simulator="robosuite"))


def test_wrong_arguments_are_refused(pair, monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'Stack'"):
        make_robosuite("Stak")
    with pytest.raises(ValueError, match="width_px=0"):
        make_robosuite("Lift", width_px=0)
    with pytest.raises(ValueError, match="seed=-1"):
        pair.reset(-1)
    pair.reset(0)
    with pytest.raises(ValueError, match="not finite"):
        pair.step(np.full(14, np.nan))
    fresh = make_robosuite("Lift", width_px=8, height_px=8)
    for ask in (fresh.observe, fresh.expert_action, lambda: fresh.step(np.zeros(14))):
        with pytest.raises(ValueError, match="call reset"):
            ask()
    fresh.close()
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(ImportError, match="make robosuite"):
        make_robosuite("Lift")
