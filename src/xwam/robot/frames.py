"""The axes in which the published checkpoints were trained, and those of the two benchmarks' robots.

A state's pose is that of the hand in the base frame. The published data turns both frames: a benchmark's
``base_from_hand`` becomes ``base_turn @ base_from_hand @ hand_turn``. Actions turn with the base alone.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from xwam.robot.rotations import matrix_from_quat, quat_from_matrix

_QUARTER_ABOUT_Z = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])


class Axes(NamedTuple):
    """How a benchmark's frames are turned for the model; columns of ``hand_turn`` are the new axes in the old hand."""

    base_turn: Float[np.ndarray, "3 3"]
    hand_turn: Float[np.ndarray, "3 3"]


SAME = Axes(np.eye(3), np.eye(3))
ROBOCASA = Axes(np.eye(3), _QUARTER_ABOUT_Z)  # the hand turned by +90 degrees about its z
ROBOTWIN = Axes(_QUARTER_ABOUT_Z, np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]]))  # hand: x' = z, y' = -y, z' = x


def pose_to_model(
    axes: Axes, position: Float[np.ndarray, "*steps 3"], quat_wxyz: Float[np.ndarray, "*steps 4"]
) -> tuple[Float[np.ndarray, "*steps 3"], Float[np.ndarray, "*steps 4"]]:
    """A pose as the robot tells it to one as the model knows it (metres, ``w >= 0``)."""
    rotation = axes.base_turn @ matrix_from_quat(quat_wxyz) @ axes.hand_turn
    return position @ axes.base_turn.T, quat_from_matrix(rotation)


def pose_to_robot(
    axes: Axes, position: Float[np.ndarray, "*steps 3"], quat_wxyz: Float[np.ndarray, "*steps 4"]
) -> tuple[Float[np.ndarray, "*steps 3"], Float[np.ndarray, "*steps 4"]]:
    """The inverse of pose_to_model."""
    rotation = axes.base_turn.T @ matrix_from_quat(quat_wxyz) @ axes.hand_turn.T
    return position @ axes.base_turn, quat_from_matrix(rotation)


def deltas_to_model(axes: Axes, deltas: Float[np.ndarray, "*steps 6"]) -> Float[np.ndarray, "*steps 6"]:
    """Moves and rotation vectors in the robot's base frame to the model's: the hand's own axes do not matter."""
    return np.concatenate([deltas[..., :3] @ axes.base_turn.T, deltas[..., 3:] @ axes.base_turn.T], axis=-1)


def deltas_to_robot(axes: Axes, deltas: Float[np.ndarray, "*steps 6"]) -> Float[np.ndarray, "*steps 6"]:
    """The inverse of deltas_to_model."""
    return np.concatenate([deltas[..., :3] @ axes.base_turn, deltas[..., 3:] @ axes.base_turn], axis=-1)
