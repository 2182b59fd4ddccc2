"""Absolute hand poses <-> the actions of the published model: what to add to the pose in one step.

``delta_position = target - current`` and ``delta_rotation = R_target R_current^T`` as a rotation vector, both in the
base frame. Integrating: ``p <- p + dp``, ``R <- exp(dr) R``.
"""

import numpy as np
from jaxtyping import Float

from xwam.robot.layout import Layout
from xwam.robot.rotations import matrix_from_quat, matrix_from_vector, pose_matrix, quat_from_matrix, vector_from_matrix


def deltas_between(
    current_position: Float[np.ndarray, "*steps 3"],
    current_quat_wxyz: Float[np.ndarray, "*steps 4"],
    target_position: Float[np.ndarray, "*steps 3"],
    target_quat_wxyz: Float[np.ndarray, "*steps 4"],
) -> Float[np.ndarray, "*steps 6"]:
    """Position (m) and rotation vector (rad) that lead from the current to the target pose."""
    turn = matrix_from_quat(target_quat_wxyz) @ np.swapaxes(matrix_from_quat(current_quat_wxyz), -1, -2)
    return np.concatenate([target_position - current_position, vector_from_matrix(turn)], axis=-1)


def apply_deltas(
    current_position: Float[np.ndarray, "*steps 3"],
    current_quat_wxyz: Float[np.ndarray, "*steps 4"],
    deltas: Float[np.ndarray, "*steps 6"],
) -> tuple[Float[np.ndarray, "*steps 3"], Float[np.ndarray, "*steps 4"]]:
    """The inverse of deltas_between: the target position and quaternion."""
    target = matrix_from_vector(deltas[..., 3:]) @ matrix_from_quat(current_quat_wxyz)
    return current_position + deltas[..., :3], quat_from_matrix(target)


def integrate(
    position: Float[np.ndarray, " 3"], quat_wxyz: Float[np.ndarray, " 4"], deltas: Float[np.ndarray, "Ta 6"]
) -> tuple[Float[np.ndarray, "Ta 3"], Float[np.ndarray, "Ta 4"]]:
    """The poses after each action, one after the other, starting from one pose."""
    rotation, rotations = matrix_from_quat(quat_wxyz), []
    for turn in matrix_from_vector(deltas[:, 3:]):
        rotation = turn @ rotation
        rotations.append(rotation)
    return position + np.cumsum(deltas[:, :3], axis=0), quat_from_matrix(np.stack(rotations))


def base_from_hand(
    layout: Layout, state: Float[np.ndarray, "*steps Ds"], hand: str = "left"
) -> Float[np.ndarray, "*steps 4 4"]:
    """The pose of a hand, out of the parts ``<hand>_position`` and ``<hand>_rotation`` (a quaternion) of the state."""
    position = state[..., layout.state_slice(f"{hand}_position")]
    return pose_matrix(position, state[..., layout.state_slice(f"{hand}_rotation")])
