"""The benchmarks' adapters, which know no xwam, against ``robots/*.json`` and the axes of the published weights."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from xwam_benchmarks import libero, robocasa, robotwin
from xwam_benchmarks.arm import OPEN_M, Arm
from xwam_benchmarks.rotations import matrix_from_quat, matrix_from_vector, quat_from_matrix, wxyz
from xwam_benchmarks.slots import Axes, names_of_cameras
from xwam_client.agreement import MismatchError

from tests.client_benchmarks.metadata import of_file, of_published
from xwam.robot.axes import ROBOCASA, ROBOTWIN
from xwam.robot.columns import read_action, read_state, write_action
from xwam.robot.rotations import matrix_from_quat as their_matrix
from xwam.robot.rotations import quat_from_matrix as their_quat
from xwam.robot.rotations import vector_from_matrix

LARGEST = np.array([0.05] * 3 + [0.5] * 3)


@pytest.fixture
def generator():
    return np.random.default_rng(3)


def poses(generator, count):
    """Positions and quaternions wxyz, half turns about each axis among them."""
    turns = np.concatenate([np.eye(4)[1:], generator.normal(size=(count - 3, 4))])
    return generator.normal(size=(count, 3)), turns / np.linalg.norm(turns, axis=1, keepdims=True)


def seen_by_robosuite(generator, position, quat_wxyz, prefix="robot0_eef"):
    fingers = generator.uniform(0, OPEN_M)
    return {
        f"{prefix}_pos": position,
        f"{prefix}_quat": np.roll(quat_wxyz, -1),
        "robot0_gripper_qpos": np.array([fingers, -fingers]),
        "robot0_joint_pos": generator.normal(size=7),
    }


def test_rotations_are_scipys(generator):
    for quat in poses(generator, 40)[1]:
        matrix = Rotation.from_quat(quat, scalar_first=True).as_matrix()
        np.testing.assert_allclose(matrix_from_quat(3 * quat), matrix, atol=1e-12)
        np.testing.assert_allclose(matrix_from_quat(quat_from_matrix(matrix)), matrix, atol=1e-12)
        assert quat_from_matrix(matrix)[0] >= 0
        np.testing.assert_allclose(wxyz(np.roll(quat, -1)), quat)
    for vector in (np.zeros(3), [1e-9, 0, 0], [0, np.pi, 0], *generator.normal(size=(20, 3))):
        matrix = Rotation.from_rotvec(vector).as_matrix()
        np.testing.assert_allclose(matrix_from_vector(vector), matrix, atol=1e-12)


@pytest.mark.parametrize("name", ["libero", "libero_lerobot"])
def test_libero_tells_and_commands_what_its_data_hold(generator, name):
    """Its own files and LeRobot's hold the same numbers under other names."""
    robot, metadata = of_file(name)
    arm = Arm(metadata, Axes(metadata), position_key="robot0_eef_pos", quat_key="robot0_eef_quat")
    for position, quat in zip(*poses(generator, 20), strict=True):
        seen = seen_by_robosuite(generator, position, quat)
        parts = {
            "obs/ee_pos": position[None],
            "obs/ee_ori": vector_from_matrix(their_matrix(quat[None])),
            "obs/gripper_states": seen["robot0_gripper_qpos"][None],
        }
        state = read_state(robot, {**parts, "observation.state": np.concatenate([*parts.values()], axis=1)})
        np.testing.assert_allclose(their_matrix(arm.state(seen)[3:7]), their_matrix(state[0, 3:7]), atol=1e-9)
        np.testing.assert_allclose(np.delete(arm.state(seen), range(3, 7)), np.delete(state[0], range(3, 7)))
        action = generator.uniform(-1, 1, 14) * [*LARGEST, 1, *[0] * 7]
        hand, gripper = arm.command(action, LARGEST)
        (command,) = write_action(robot, action[None], state).values()
        np.testing.assert_allclose([*hand, gripper], command[0], atol=1e-9)


def test_commands_stay_within_what_the_controller_takes():
    _, metadata = of_file("libero")
    arm = Arm(metadata, Axes(metadata), position_key="robot0_eef_pos", quat_key="robot0_eef_quat")
    hand, gripper = arm.command(np.array([0.2, 0, 0, 0, 0, -3.0, -5, *[0] * 7]), LARGEST)
    np.testing.assert_allclose([*hand, gripper], [1, 0, 0, 0, 0, -1, 1])


def test_robocasa_of_the_published_weights(generator):
    arm = robocasa.arm_of(of_published("robocasa"))
    for position, quat in zip(*poses(generator, 20), strict=True):
        seen = seen_by_robosuite(generator, position, quat, "robot0_base_to_eef")
        state = arm.state(seen)
        np.testing.assert_allclose(state[:3], ROBOCASA.vectors_to_model(position))
        turned = ROBOCASA.hands_to_model(their_matrix(quat))
        np.testing.assert_allclose(their_matrix(state[3:7]), turned, atol=1e-9)
        np.testing.assert_allclose(state[7], seen["robot0_gripper_qpos"][0] / 0.04)
        assert not state[8:].any(), "the right arm, which it does not have"
    command = generator.uniform(-1, 1, 7)
    hand, gripper = arm.command(np.concatenate([command, np.zeros(7)]), LARGEST)
    np.testing.assert_allclose([*hand, gripper], command, err_msg="the controller's own commands are passed on")


@pytest.mark.parametrize("is_published", [True, False])
def test_robotwin_both_ways(generator, is_published):
    """Poses that were really passed through -> states and actions -> the same poses as targets."""
    robot, metadata = of_file("robotwin")
    if is_published:
        metadata = of_published("robotwin")
    translator = robotwin.Translator(metadata)
    steps = 6
    columns, told = {}, []
    for arm in robotwin.ARMS:
        vectors = np.cumsum(generator.normal(scale=0.2, size=(steps, 3)), axis=0)
        positions = np.cumsum(generator.normal(scale=0.02, size=(steps, 3)), axis=0)
        rows = np.concatenate([positions, Rotation.from_rotvec(vectors).as_quat(scalar_first=True)], axis=1)
        columns[f"endpose/{arm}_endpose"] = rows
        columns[f"endpose/{arm}_gripper"] = generator.uniform(size=(steps, 1))
        told += [rows, columns[f"endpose/{arm}_gripper"]]
    endpose = {key.split("/")[1]: rows[0] if rows.shape[1] > 1 else rows[0, 0] for key, rows in columns.items()}
    if is_published:
        states, actions = _as_published(columns)
    else:
        states, actions = read_state(robot, columns), read_action(robot, columns)
    ours = translator.state(endpose)
    for arm in (0, 8):
        np.testing.assert_allclose(ours[arm : arm + 3], states[0, arm : arm + 3], atol=1e-12)
        np.testing.assert_allclose(their_matrix(ours[arm + 3 : arm + 7]), their_matrix(states[0, arm + 3 : arm + 7]))
    targets, expected = translator.targets(endpose, actions), np.concatenate(told, axis=1)[1:]
    assert targets.shape == (steps - 1, 16)
    for arm in (0, 8):
        np.testing.assert_allclose(targets[:, arm : arm + 3], expected[:, arm : arm + 3], atol=1e-9)
        hands = targets[:, arm + 3 : arm + 7], expected[:, arm + 3 : arm + 7]
        np.testing.assert_allclose(*map(their_matrix, hands), atol=1e-9)
        np.testing.assert_allclose(targets[:, arm + 7], expected[:, arm + 7], atol=1e-9)


def _as_published(columns):
    """Deltas between the poses, in the model's axes; the gripper's change."""
    states, actions = [], []
    for arm in robotwin.ARMS:
        rows, opening = columns[f"endpose/{arm}_endpose"], columns[f"endpose/{arm}_gripper"]
        position, hands = ROBOTWIN.vectors_to_model(rows[:, :3]), ROBOTWIN.hands_to_model(their_matrix(rows[:, 3:]))
        states += [position, their_quat(hands), opening]
        turns = vector_from_matrix(hands[1:] @ np.swapaxes(hands[:-1], -1, -2))
        actions += [np.diff(position, axis=0), turns, np.diff(opening, axis=0)]
        straight = ROBOTWIN.vectors_to_robot(np.diff(position, axis=0))
        np.testing.assert_allclose(straight, np.diff(rows[:, :3], axis=0), atol=1e-12)
    return np.concatenate(states, axis=1), np.concatenate(actions, axis=1)


def test_another_robots_server_is_refused():
    for name, open_arm in (("aloha", robocasa.arm_of), ("robotwin", robocasa.arm_of), ("aloha", robotwin.Translator)):
        with pytest.raises(MismatchError, match=r"this robot has .*Nothing was moved"):
            open_arm(of_file(name)[1])
    with pytest.raises(MismatchError, match=r"action part 'left_gripper' of kind 'delta_gripper'.*gripper_command"):
        robocasa.arm_of(_single_armed(of_published("robotwin")))


def _single_armed(metadata):
    layout = {
        which: [dict(part, is_used=part["is_used"] and part["name"].startswith("left")) for part in parts]
        for which, parts in metadata["layout"].items()
        if which != "name"
    }
    return {**metadata, "layout": {"name": "one arm", **layout}}


def test_cameras_are_found_by_name_or_by_what_the_user_says():
    metadata = {"cameras": [{"name": "agentview"}, {"name": "wrist"}, {"name": "mine"}]}
    known = ("agentview", "robot0_eye_in_hand", "frontview")
    names = names_of_cameras(metadata, known, libero.OTHER_NAMES, {"mine": "frontview"})
    assert names == {"agentview": "agentview", "wrist": "robot0_eye_in_hand", "mine": "frontview"}
    with pytest.raises(MismatchError, match=r"camera='mine'.*frontview.*--camera mine=NAME"):
        names_of_cameras(metadata, known, libero.OTHER_NAMES, {})
