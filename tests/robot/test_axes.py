"""The published checkpoints' axes: there and back, actions that agree with poses, where they put a robot's hands."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from xwam.robot.actions import apply_deltas, deltas_between
from xwam.robot.axes import ROBOCASA, ROBOTWIN, Axes
from xwam.robot.rotations import matrix_from_quat, positive_w, quat_from_matrix

PUBLISHED = Path(__file__).parents[1] / "goldens" / "data" / "policy.safetensors"


def pose_to_model(axes, position, quat):
    return axes.vectors_to_model(position), quat_from_matrix(axes.hands_to_model(matrix_from_quat(quat)))


@pytest.mark.parametrize("axes", [Axes(np.eye(3), np.eye(3)), ROBOCASA, ROBOTWIN])
def test_round_trips(axes: Axes) -> None:
    random = np.random.default_rng(0)
    quats = random.normal(size=(20, 4))
    quats = positive_w(quats / np.linalg.norm(quats, axis=1, keepdims=True))
    positions, moves = random.normal(size=(20, 3)), random.normal(scale=0.1, size=(20, 2, 3))
    there = pose_to_model(axes, positions, quats)
    np.testing.assert_allclose(axes.vectors_to_robot(there[0]), positions, atol=1e-12)
    back = axes.hands_to_robot(matrix_from_quat(there[1]))
    np.testing.assert_allclose(back, matrix_from_quat(quats), atol=1e-12)
    # turning poses and then subtracting equals subtracting and then turning
    targets = apply_deltas(positions, quats, moves.reshape(20, 6))
    turned = deltas_between(*there, *pose_to_model(axes, *targets))
    np.testing.assert_allclose(turned, axes.vectors_to_model(moves).reshape(20, 6), atol=1e-12)
    for turn in axes:
        np.testing.assert_allclose(np.linalg.det(turn), 1)


def test_robocasas_hand_is_turned_by_a_quarter():
    turned = ROBOCASA.hands_to_model(np.eye(3))
    np.testing.assert_allclose(turned[:, 0], [0, 1, 0], atol=1e-12)  # the new x is the old y
    np.testing.assert_allclose(ROBOCASA.vectors_to_model(np.array([1.0, 2, 3])), [1, 2, 3])


@pytest.mark.parametrize(("arm", "home"), [("left", (-0.3, -0.32, 0.935)), ("right", (0.3, -0.32, 0.935))])
def test_robotwins_hands_at_rest_are_where_the_published_statistics_have_them(arm, home):
    """The robot looks along RoboTwin's y, and so do its hands at rest (a quarter about z); the left one has x < 0."""
    stored = load_file(PUBLISHED)
    where = slice(0, 3) if arm == "left" else slice(8, 11)
    low, high = (stored[f"robotwin/state_{end}"][where] for end in ("q01", "q99"))
    position, quat = pose_to_model(ROBOTWIN, np.array(home), np.array([1.0, 0, 0, 1]) / np.sqrt(2))
    normalised = 2 * (position - low) / (high - low) - 1
    assert (np.abs(normalised) < 1.1).all(), f"{arm} hand at {position}, published {low} to {high}"
    approach = matrix_from_quat(quat)[:, 2]
    np.testing.assert_allclose(approach, [1, 0, 0], atol=1e-12, err_msg="grippers point forward")
