"""The adapters of RoboCasa and LIBERO in robosuite itself: the same robots, controllers and pictures."""

import numpy as np
import pytest

pytest.importorskip("robosuite", reason="make robosuite")

from tests.client_benchmarks.metadata import of_file, of_published
from tests.client_benchmarks.simulators import SIZE, open_fixed, open_mobile
from xwam.robot.axes import ROBOCASA
from xwam.robot.rotations import matrix_from_quat, vector_from_matrix

VIEWS = {
    "robot0_agentview_left": "agentview",
    "robot0_agentview_right": "frontview",
    "robot0_eye_in_hand": "robot0_eye_in_hand",
}


@pytest.fixture(scope="module")
def mobile():
    """RoboCasa's Panda on wheels, asked by the published weights."""
    task = open_mobile(of_published("robocasa"), "cube", cameras=VIEWS)
    yield task
    task.close()


@pytest.fixture(scope="module")
def fixed():
    """LIBERO's Panda, asked by a checkpoint that learned from LIBERO's files."""
    task = open_fixed(of_file("libero")[1], "cube", cameras={})
    yield task
    task.close()


@pytest.fixture(params=["mobile", "fixed"])
def task(request):
    return request.getfixturevalue(request.param)


def action_of(task, **parts):
    action, start = np.zeros(14), 0
    for part in task.layout["action"]:
        if part["name"] in parts:
            action[start : start + part["size"]] = parts[part["name"]]
        start += part["size"]
    return action


def test_a_number_says_how_an_episode_begins(task):
    begun = []
    for seed in (0, 1, 0):
        task.reset(seed)
        begun.append(task.observe())
    np.testing.assert_array_equal(begun[0].state, begun[2].state)
    assert any((begun[0].images[name] != begun[1].images[name]).any() for name in task.cameras)
    for name in task.cameras:
        np.testing.assert_array_equal(begun[0].images[name], begun[2].images[name])
        assert begun[0].images[name].shape == (SIZE, SIZE, 3)
        assert begun[0].images[name].dtype == np.uint8


def test_pictures_are_turned_upright(task):
    """Robosuite's begin at the bottom; a picture may also be mirrored, as some data sets are."""
    task.reset(0)
    for name, camera in task.cameras.items():
        raw = task._observed[f"{camera}_image"]
        np.testing.assert_array_equal(task.observe().images[name], raw[::-1])
        task._is_mirrored = True
        np.testing.assert_array_equal(task.observe().images[name], raw[::-1, ::-1])
        task._is_mirrored = False


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("part", ["left_position", "left_rotation"])
def test_what_the_model_asks_for_is_what_the_hand_does(task, part, axis):
    """Eight times the controller's largest move or turn: the arm follows slowly, yet along that axis alone."""
    task.reset(0)
    is_raw = task.layout["name"] == "robocasa"
    largest = 1.0 if is_raw else 0.05 if part == "left_position" else 0.5
    asked = np.eye(3)[axis] * (largest if axis < 2 else -largest)
    before = task.state()
    for _ in range(8):
        task.step(action_of(task, **{part: asked}))
    if part == "left_position":
        done, least = (task.state() - before)[:3], 0.05
    else:
        hands = matrix_from_quat(task.state()[3:7]) @ matrix_from_quat(before[3:7]).T
        done, least = vector_from_matrix(hands), 0.3
    assert done[axis] * np.sign(asked[axis]) > least
    assert np.abs(np.delete(done, axis)).max() < 0.25 * abs(done[axis])


def test_the_gripper_closes_when_it_is_told_to(task):
    is_raw = task.layout["name"] == "robocasa"
    task.reset(0)
    openings = []
    for command in (1.0, -1.0) if is_raw else (-1.0, 1.0):  # close, open
        for _ in range(15):
            task.step(action_of(task, left_gripper=command))
        openings.append(task.state()[7])
    assert openings[0] < 0.1
    assert openings[1] > 0.9


def test_the_state_is_where_the_hand_is_in_the_base(mobile):
    """Also of a base that is turned, as kitchens turn it; and the base stays where it is while the arm moves."""
    mobile.reset(2)
    assert abs(mobile._observed["robot0_base_quat"][2]) > 0.2, "turned about z, or base and world are one"
    seen = mobile._observed
    where = seen["robot0_base_pos"].copy()
    for _ in range(10):
        mobile.step(action_of(mobile, left_position=(0.3, 0.3, 0)))
    seen = mobile._observed
    np.testing.assert_allclose(seen["robot0_base_pos"], where, atol=2e-3)
    base = matrix_from_quat(np.roll(seen["robot0_base_quat"], 1))
    hand = matrix_from_quat(np.roll(seen["robot0_eef_quat"], 1))
    state = mobile.state()
    position = ROBOCASA.vectors_to_robot(state[:3])
    np.testing.assert_allclose(base @ position + seen["robot0_base_pos"], seen["robot0_eef_pos"], atol=1e-5)
    np.testing.assert_allclose(base @ ROBOCASA.hands_to_robot(matrix_from_quat(state[3:7])), hand, atol=1e-5)


def test_libero_s_beginnings_come_around(fixed):
    states = []
    for seed in (0, 2):  # of two stored ones
        fixed.reset(seed)
        states.append(fixed._observed["cube_pos"])
    np.testing.assert_allclose(*states, atol=1e-9)
