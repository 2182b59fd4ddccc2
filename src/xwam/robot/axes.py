"""The axes in which a checkpoint was trained, and those of the published ones.

A state's pose is that of the hand in the base frame. The published data turns both frames: a benchmark's
``base_from_hand`` becomes ``base_turn @ base_from_hand @ hand_turn``. Actions turn with the base alone.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_QUARTER_ABOUT_Z = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])


class Axes(NamedTuple):
    """How a robot's frames are turned for the model: new axes are rows of ``base_turn``, columns of ``hand_turn``."""

    base_turn: Float[np.ndarray, "3 3"]
    hand_turn: Float[np.ndarray, "3 3"]

    def vectors_to_model(self, vectors: Float[np.ndarray, "*steps 3"]) -> Float[np.ndarray, "*steps 3"]:
        """Positions, moves and rotation vectors in the robot's base, told in the model's base."""
        return vectors @ self.base_turn.T

    def vectors_to_robot(self, vectors: Float[np.ndarray, "*steps 3"]) -> Float[np.ndarray, "*steps 3"]:
        """The inverse of vectors_to_model."""
        return vectors @ self.base_turn

    def hands_to_model(self, rotations: Float[np.ndarray, "*steps 3 3"]) -> Float[np.ndarray, "*steps 3 3"]:
        """Rotations of a hand in the robot's base, told in the model's axes of both."""
        return self.base_turn @ rotations @ self.hand_turn

    def hands_to_robot(self, rotations: Float[np.ndarray, "*steps 3 3"]) -> Float[np.ndarray, "*steps 3 3"]:
        """The inverse of hands_to_model."""
        return self.base_turn.T @ rotations @ self.hand_turn.T


# RoboCasa: the hand's axes are turned by +90 degrees about its z. RoboTwin: those of the base are (x' = y, forward;
# y' = -x, left), and the hand's are x' = z, y' = -y, z' = x. packages/xwam-benchmarks says the same.
ROBOCASA = Axes(np.eye(3), _QUARTER_ABOUT_Z)
ROBOTWIN = Axes(_QUARTER_ABOUT_Z.T, np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]]))
