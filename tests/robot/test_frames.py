"""Benchmarks' axes: there and back, and actions that agree with the poses."""

import numpy as np
import pytest

from xwam.robot.actions import apply_deltas, deltas_between
from xwam.robot.frames import (
    ROBOCASA,
    ROBOTWIN,
    SAME,
    Axes,
    deltas_to_model,
    deltas_to_robot,
    pose_to_model,
    pose_to_robot,
)
from xwam.robot.rotations import matrix_from_quat, positive_w


@pytest.mark.parametrize("axes", [SAME, ROBOCASA, ROBOTWIN])
def test_round_trips(axes: Axes) -> None:
    random = np.random.default_rng(0)
    quats = random.normal(size=(20, 4))
    quats = positive_w(quats / np.linalg.norm(quats, axis=1, keepdims=True))
    positions, deltas = random.normal(size=(20, 3)), random.normal(scale=0.1, size=(20, 6))
    back = pose_to_robot(axes, *pose_to_model(axes, positions, quats))
    np.testing.assert_allclose(back[0], positions, atol=1e-12)
    np.testing.assert_allclose(back[1], quats, atol=1e-12)
    np.testing.assert_allclose(deltas_to_robot(axes, deltas_to_model(axes, deltas)), deltas, atol=1e-12)
    # turning poses and then subtracting equals subtracting and then turning
    targets = apply_deltas(positions, quats, deltas)
    turned = deltas_between(*pose_to_model(axes, positions, quats), *pose_to_model(axes, *targets))
    np.testing.assert_allclose(turned, deltas_to_model(axes, deltas), atol=1e-12)
    for turn in axes:
        np.testing.assert_allclose(np.linalg.det(turn), 1)


def test_meaning() -> None:
    straight = np.array([1.0, 0, 0, 0])
    position, quat = pose_to_model(ROBOTWIN, np.array([1.0, 0, 0]), straight)
    np.testing.assert_allclose(position, [0, 1, 0], atol=1e-12)
    _, quat = pose_to_model(ROBOCASA, np.zeros(3), straight)
    np.testing.assert_allclose(matrix_from_quat(quat)[:, 0], [0, 1, 0], atol=1e-12)  # the new x is the old y
