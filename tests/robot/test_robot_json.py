"""robot.json: numbers written in anybody's convention become ours and come back; mistakes in the file are named."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from xwam.robot import conventions as written
from xwam.robot.actions import apply_deltas, integrate
from xwam.robot.columns import check_columns, follow, read_action, read_state, write_action, write_state
from xwam.robot.published import ROBOTS
from xwam.robot.robot_json import (
    CameraSource,
    PartSource,
    RobotConfig,
    camera_of,
    layout_of,
    load_robot,
    robot_fingerprint,
    save_robot,
)

STEPS = 13
QUARTER = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))


def robot(form: str = "quat_xyzw", reference: str = "delta", every: int = 1, **changes) -> RobotConfig:
    """One arm in millimetres and degrees; its gripper says 0 when open and 255 when closed."""
    angle = "deg" if form in written.WITH_ANGLES else None
    turned = written.ROTATION_SIZES[form]
    parts = {
        "state": (
            PartSource(what="position", key="observation.state", unit="mm"),
            PartSource(what="rotation", key="observation.state", start=3, form=form, unit=angle),
            PartSource(what="gripper", key="observation.gripper", closed=255.0, open=0.0),
        ),
        "action": (
            PartSource(what="position", key="action", start=1, unit="mm", reference=reference),
            PartSource(what="rotation", key="action", start=4, form=form, unit=angle, reference=reference),
            PartSource(what="gripper", key="action", start=4 + turned, closed=1.0, open=-1.0),
        ),
    }
    cameras = (CameraSource(name="front", key="observation.images.front"),)
    rest = {"name": "arm", "action_hz": 10.0, "cameras": cameras, "frames_per_action": every}
    return RobotConfig(**(rest | parts | changes))


def drawn(config: RobotConfig, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random states and actions of a robot, in its layout's units."""
    rng, layout = np.random.default_rng(seed), layout_of(config)
    state, action = np.zeros((STEPS, layout.state_width)), np.zeros((STEPS, layout.action_width))
    for rows, parts, where in ((state, layout.state, layout.state_slice), (action, layout.action, layout.action_slice)):
        for part in (part for part in parts if part.is_used):
            values = rng.uniform(-0.4, 0.4, (STEPS, part.size))
            if part.kind == "quat_wxyz":
                values = Rotation.random(STEPS, random_state=seed).as_quat(canonical=True, scalar_first=True)
            rows[:, where(part.name)] = values
    return state, action


@pytest.mark.parametrize("form", written.ROTATION_SIZES)
def test_every_way_to_write_a_rotation_comes_back(form):
    matrix = Rotation.random(40, random_state=1).as_matrix()
    for unit in ("rad", "deg"):
        values = written.written_from_matrix(matrix, form, unit)
        assert values.shape == (40, written.ROTATION_SIZES[form])
        np.testing.assert_allclose(written.matrix_from_written(values, form, unit), matrix, atol=1e-12)


def test_conventions_by_hand():
    """A quarter turn about z, written by hand in every way."""
    half = np.sqrt(0.5)
    by_hand = {
        "quat_wxyz": [half, 0, 0, half],
        "quat_xyzw": [0, 0, half, half],
        "axis_angle": [0, 0, 90],
        "euler_xyz": [0, 0, 90],
        "euler_ZYX": [90, 0, 0],
        "matrix": [0, -1, 0, 1, 0, 0, 0, 0, 1],
        "rotation_6d": [0, 1, 0, -1, 0, 0],
        "rotation_6d_rows": [0, -1, 0, 1, 0, 0],
    }
    for form, values in by_hand.items():
        found = written.matrix_from_written(np.array([values], dtype=float), form, "deg")[0]
        np.testing.assert_allclose(found, QUARTER, atol=1e-12, err_msg=form)
    fixed = written.matrix_from_written(np.array([[30.0, 40, 50]]), "euler_xyz", "deg")
    moving = written.matrix_from_written(np.array([[50.0, 40, 30]]), "euler_ZYX", "deg")
    np.testing.assert_allclose(fixed, moving, atol=1e-12)


@pytest.mark.parametrize(
    ("form", "reference", "turned"),
    [*itertools.product(("quat_xyzw", "euler_xyz", "rotation_6d"), ("absolute", "delta", "hand_delta"), (False, True))],
)
def test_states_and_actions_come_back(form, reference, turned):
    turns = {"base_turn": QUARTER, "hand_turn": ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0))} if turned else {}
    config = robot(form, reference, **turns)
    state, action = drawn(config)
    columns = write_state(config, state) | write_action(config, action, state)
    assert set(columns) == {"observation.state", "observation.gripper", "action"}
    np.testing.assert_allclose(read_state(config, columns), state, atol=1e-9)
    np.testing.assert_allclose(read_action(config, columns), action, atol=1e-9)


@pytest.mark.parametrize("reference", ["absolute", "delta", "hand_delta"])
def test_all_ways_to_write_an_action_say_the_same(reference):
    """Whatever is written, the pose after the action is the one that integrating ours leads to."""
    config = robot("axis_angle", reference)
    state, _ = drawn(config)
    hand, step = Rotation.from_quat(state[:, 3:7], scalar_first=True), np.array([0.01, -0.02, 0.03])
    turn = Rotation.from_rotvec([0.1, 0.2, -0.05])  # in the hand's axes
    after, reached = hand * turn, state[:, :3] + hand.apply(step)
    commands = {
        "absolute": (reached, after),
        "delta": (hand.apply(step), after * hand.inv()),
        "hand_delta": (np.tile(step, (STEPS, 1)), Rotation.concatenate([turn] * STEPS)),
    }[reference]
    grip = np.full((STEPS, 1), -1.0)
    command = np.concatenate([np.zeros((STEPS, 1)), commands[0] * 1000, commands[1].as_rotvec(degrees=True), grip], 1)
    action = read_action(config, write_state(config, state) | {"action": command})
    position, quat = apply_deltas(state[:, :3], state[:, 3:7], action[:, :6])
    np.testing.assert_allclose(position, reached, atol=1e-9)
    np.testing.assert_allclose(quat, after.as_quat(canonical=True, scalar_first=True), atol=1e-9)
    np.testing.assert_allclose(action[:, 6], 1.0)  # -1 is open for this robot, 1 for us
    assert (action[:, 7:] == 0).all()


@pytest.mark.parametrize("reference", ["absolute", "delta", "hand_delta"])
def test_several_frames_make_one_action(reference):
    """A path of 13 frames read 3 at a time: 5 states, 4 actions that lead from one to the next."""
    config = robot("quat_wxyz", reference, every=3)
    rng = np.random.default_rng(3)
    deltas = np.concatenate([rng.uniform(-0.02, 0.02, (STEPS, 3)), rng.uniform(-0.2, 0.2, (STEPS, 3))], axis=1)
    position, quat = integrate(np.array([0.4, 0.0, 0.2]), np.array([1.0, 0, 0, 0]), deltas)
    state = np.zeros((STEPS, 16))
    state[1:, :3], state[1:, 3:7] = position[:-1], quat[:-1]
    state[0, :3], state[0, 3] = [0.4, 0.0, 0.2], 1
    single = replace(config, frames_per_action=1)
    action = np.zeros((STEPS, 14))
    action[:, :6], action[:, 6] = deltas, np.linspace(-1, 1, STEPS)
    columns = write_state(single, state) | write_action(single, action, state)
    found = read_action(config, columns)
    assert found.shape == (4, 14)
    starts = read_state(config, columns)[::3]
    assert starts.shape == (5, 16)
    reached = apply_deltas(starts[:4, :3], starts[:4, 3:7], found[:, :6])
    np.testing.assert_allclose(reached[0], starts[1:, :3], atol=1e-9)
    np.testing.assert_allclose(reached[1], starts[1:, 3:7], atol=1e-9)
    np.testing.assert_allclose(found[:, 6], action[[2, 5, 8, 11], 6])
    if reference == "delta":  # the way back shares the change out over the frames
        one = write_action(config, found[:1], starts[:1])
        again = {key: np.repeat(rows, 3, axis=0) for key, rows in (write_state(config, starts[:1]) | one).items()}
        np.testing.assert_allclose(read_action(config, again)[0, :6], found[0, :6], atol=1e-9)


def test_joints_of_two_arms():
    """14 joints in degrees and two grippers: 16 states, 16 actions, absolute or by how much."""

    def parts(key, reference):
        return tuple(
            PartSource(what=what, arm=arm, key=key, start=first + more, reference=reference, **rest)
            for arm, first in (("left", 0), ("right", 8))
            for what, more, rest in (("joints", 0, {"size": 7, "unit": "deg"}), ("gripper", 7, {"open": 100.0}))
        )

    for reference in ("absolute", "delta"):
        state = parts("observation.state", "absolute")
        config = robot(state=state, action=parts("action", reference), action_width=16)
        layout = layout_of(config)
        assert [part.name for part in layout.action] == ["left_joints", "left_gripper", "right_joints", "right_gripper"]
        assert layout.action[0].kind == {"absolute": "joint_command", "delta": "delta_joint"}[reference]
        assert layout.action[0].scaling == {"absolute": "quantile", "delta": "symmetric"}[reference]
        states, actions = drawn(config)
        columns = write_state(config, states) | write_action(config, actions, states)
        np.testing.assert_allclose(columns["observation.state"][:, 0], np.degrees(states[:, 0]))
        np.testing.assert_allclose(read_state(config, columns), states, atol=1e-9)
        np.testing.assert_allclose(read_action(config, columns), actions, atol=1e-9)
        reached = follow(config, states[0], actions)
        expected = actions[:-1, :7] if reference == "absolute" else states[0, :7] + np.cumsum(actions[:-1, :7], axis=0)
        np.testing.assert_allclose(reached[1:, :7], expected)


def test_a_chunk_becomes_commands():
    """Targets along a chunk start from where the actions before them lead."""
    config = robot("quat_xyzw", "absolute")
    state, action = drawn(config, seed=5)
    position, quat = integrate(state[0, :3], state[0, 3:7], action[:, :6])
    commands = write_action(config, action, follow(config, state[0], action))["action"]
    np.testing.assert_allclose(commands[:, 1:4], position * 1000, atol=1e-9)
    np.testing.assert_allclose(commands[:, 4:8], quat[:, [1, 2, 3, 0]], atol=1e-9)


def test_a_gripper_that_is_told_changes_follows_them_and_is_known_by_its_kind():
    config = robot()
    changes = replace(config, action=(*config.action[:2], replace(config.action[2], reference="delta")))
    assert [layout_of(c).action[2].kind for c in (config, changes)] == ["gripper_command", "delta_gripper"]
    assert ROBOTS["robotwin"].layout.action[2].kind == "delta_gripper"
    state, action = drawn(changes)
    states = follow(changes, state[0], action)
    expected = state[0, 7] + np.concatenate([[0], np.cumsum(action[:-1, 6])])
    np.testing.assert_allclose(states[:, 7], expected)
    twentieth = replace(changes, action=(*changes.action[:2], replace(changes.action[2], scale=0.05)))
    written = write_action(changes, action, follow(changes, state[0], action))
    scaled = write_action(twentieth, action, follow(twentieth, state[0], action))
    part, other = changes.action[2], changes.action[0]
    np.testing.assert_allclose(scaled[part.key][:, part.start], 20 * written[part.key][:, part.start])
    np.testing.assert_array_equal(scaled[other.key][:, :3], written[other.key][:, :3])
    np.testing.assert_allclose(read_action(twentieth, write_state(twentieth, state) | scaled)[:, 6], action[:, 6])


def test_the_layout_is_the_published_one_where_the_parts_are():
    """A single arm's slots are where the published model has them; an arm that is not there keeps its place."""
    layout, published = layout_of(robot()), ROBOTS["robocasa"].layout
    assert (layout.state_width, layout.action_width) == (published.state_width, published.action_width)
    np.testing.assert_array_equal(layout.state_mask, published.state_mask)
    np.testing.assert_array_equal(layout.action_mask, published.action_mask)
    right_only = robot(
        state=(PartSource(what="gripper", key=None), PartSource(what="gripper", arm="right", key="observation.state")),
        action=(PartSource(what="gripper", arm="right", key="action"),),
    )
    assert layout_of(right_only).state_mask[:3].tolist() == [False, True, False]
    assert read_state(right_only, {"observation.state": np.ones((2, 1))})[0, :3].tolist() == [0, 1, 0]


def test_controllers_that_take_commands_in_minus_one_to_one():
    config = robot(
        action=(
            PartSource(what="position", key="action", reference="delta", scale=0.05),
            PartSource(what="rotation", key="action", start=3, form="axis_angle", reference="delta", scale=0.5),
        )
    )
    command = np.array([[1.0, 0, -1, 0, 0, 0.5]])
    state = write_state(config, drawn(config)[0][:1])
    action = read_action(config, state | {"action": command})
    np.testing.assert_allclose(action[0, :6], [0.05, 0, -0.05, 0, 0, 0.25])
    np.testing.assert_allclose(write_action(config, action, read_state(config, state))["action"], command)


def test_cameras_follow_the_turned_axes():
    """Where a wrist camera's pixels lie in the base does not depend on the axes that the model likes."""
    pose = np.eye(4)
    pose[:3, 3] = [0.0, 0.05, 0.1]
    plain = robot(cameras=(CameraSource(name="wrist", key="w", hand_from_camera=tuple(map(tuple, pose.tolist()))),))
    turned = replace(plain, base_turn=QUARTER, hand_turn=QUARTER)
    state, _ = drawn(plain)
    columns = write_state(plain, state)
    where = []
    for config in (plain, turned):
        hand = np.eye(4)
        row = read_state(config, columns)[0]
        hand[:3, :3] = Rotation.from_quat(row[3:7], scalar_first=True).as_matrix()
        hand[:3, 3] = row[:3]
        where.append(hand @ camera_of(config, config.cameras[0], 64, 48).hand_from_camera)
    base = np.eye(4)
    base[:3, :3] = QUARTER
    np.testing.assert_allclose(base @ where[0], where[1], atol=1e-9)


def test_a_calibrated_wrist_camera_says_which_of_two_hands_carries_it(tmp_path):
    pose = tuple(map(tuple, np.eye(4).tolist()))
    wrist = CameraSource(name="wrist", key="w", hand_from_camera=pose)
    one, both = robot(cameras=(wrist,)), [replace(part, arm=arm) for part in robot().state for arm in ("left", "right")]
    assert one.cameras[0].hand == "left"
    assert robot_fingerprint(one) == robot_fingerprint(robot(cameras=(replace(wrist, hand="left"),)))
    save_robot(tmp_path / "one.json", one)
    assert json.loads((tmp_path / "one.json").read_text())["cameras"][0]["hand"] == "left"
    apart = [replace(part, start=part.start + 20 * (part.arm == "right")) for part in both]
    with pytest.raises(ValueError, match=r"'wrist' hand=null: .* has 2 hands; say which one .*: 'left' or 'right'"):
        robot(state=tuple(apart), cameras=(wrist,))
    right = robot(state=tuple(apart), cameras=(replace(wrist, hand="right"),))
    assert camera_of(right, right.cameras[0], 64, 48).hand == "right"
    loose = replace(wrist, hand_from_camera=None, on_hand=True)
    assert robot(state=tuple(apart), cameras=(loose,)).cameras[0].hand == "left"
    with pytest.raises(ValueError, match="rides on hand='right': the state needs its pose"):
        robot(cameras=(replace(wrist, hand="right"),))


def test_the_file_comes_back_and_mistakes_are_named(tmp_path):
    config = robot()
    path = tmp_path / "robot.json"
    save_robot(path, config)
    assert load_robot(path) == config
    assert robot_fingerprint(load_robot(path)) == robot_fingerprint(config)
    assert robot_fingerprint(replace(config, action_hz=11.0)) != robot_fingerprint(config)
    stored = json.loads(path.read_text())
    for change, message in (
        ({"camera": []}, "unknown key 'camera': did you mean 'cameras'"),
        ({"cameras": []}, "at least one camera"),
        ({"state_width": 7}, "its parts need 8 slots; give state_width=8"),
        ({"action_hz": 0}, "must be positive"),
        ({"instruction": " "}, "instruction=' ': say what the robot should do, or leave it out"),
        ({"base_turn": [[1, 0, 0], [0, 1, 0], [0, 0, -1]]}, "base_turn=.*: must be a rotation"),
        ({"hand_turn": [[1000, 0, 0], [0, 1000, 0], [0, 0, 1000]]}, "hand_turn=.*: must be a rotation"),
        ({"state": []}, "name no column"),
        ({"state": [stored["state"][0] | {"form": "foo"}]}, "form='foo'"),
        ({"state": stored["state"][:1]}, "needs the state part 'left_rotation'"),
        ({"state": [stored["state"][0] | {"unit": "inch"}]}, "unit='inch': allowed: m, cm, mm"),
        ({"state": [stored["state"][1] | {"form": "quat_wxzy"}]}, "did you mean 'quat_wxyz'"),
        ({"state": [stored["state"][2] | {"open": 255}]}, "closed and open must differ"),
        ({"state": [stored["state"][0], stored["state"][0]]}, "'left_position' stands twice"),
        ({"state": [stored["state"][0], stored["state"][1] | {"start": 2}]}, "both read slot 2"),
    ):
        path.write_text(json.dumps(stored | {"action": []} | change))
        if "needs" in message and "rotation" in message:
            hand = [part | {"reference": "hand_delta"} for part in stored["action"]]
            path.write_text(json.dumps(stored | change | {"action": hand[:1]}))
        with pytest.raises(ValueError, match=message):
            load_robot(path)


def test_columns_that_do_not_fit_are_refused():
    config = robot()
    check_columns(config, {"observation.state": 7, "observation.gripper": 1, "action": 9})
    with pytest.raises(ValueError, match=r"reads slots 3\.\.6 of 'observation.state': the data set has 6"):
        check_columns(config, {"observation.state": 6, "observation.gripper": 1, "action": 9})
    with pytest.raises(ValueError, match=r"key='observation.gripper': did you mean 'observation.grip'"):
        check_columns(config, {"observation.state": 7, "observation.grip": 1, "action": 9})
