"""Rotations as unit quaternions (wxyz, ``w >= 0``), matrices and rotation vectors, and all ways between them.

A rotation vector points along the axis; its length is the angle in radians, 0..pi. All functions take any number of
leading axes and compute in float64.
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation


def matrix_from_quat(quat_wxyz: Float[np.ndarray, "*steps 4"]) -> Float[np.ndarray, "*steps 3 3"]:
    """Quaternions of any length but zero to rotation matrices."""
    flat = Rotation.from_quat(quat_wxyz.reshape(-1, 4), scalar_first=True)
    return flat.as_matrix().reshape(*quat_wxyz.shape[:-1], 3, 3)


def quat_from_matrix(matrix: Float[np.ndarray, "*steps 3 3"]) -> Float[np.ndarray, "*steps 4"]:
    """Rotation matrices to unit quaternions with ``w >= 0``."""
    flat = Rotation.from_matrix(matrix.reshape(-1, 3, 3))
    return positive_w(flat.as_quat(scalar_first=True)).reshape(*matrix.shape[:-2], 4)


def matrix_from_vector(vector: Float[np.ndarray, "*steps 3"]) -> Float[np.ndarray, "*steps 3 3"]:
    """Rotation vectors (radians) to matrices."""
    return Rotation.from_rotvec(vector.reshape(-1, 3)).as_matrix().reshape(*vector.shape[:-1], 3, 3)


def vector_from_matrix(matrix: Float[np.ndarray, "*steps 3 3"]) -> Float[np.ndarray, "*steps 3"]:
    """Rotation matrices to rotation vectors (radians)."""
    return Rotation.from_matrix(matrix.reshape(-1, 3, 3)).as_rotvec().reshape(*matrix.shape[:-2], 3)


def quat_from_vector(vector: Float[np.ndarray, "*steps 3"]) -> Float[np.ndarray, "*steps 4"]:
    """Rotation vectors (radians) to unit quaternions with ``w >= 0``."""
    flat = Rotation.from_rotvec(vector.reshape(-1, 3))
    return positive_w(flat.as_quat(scalar_first=True)).reshape(*vector.shape[:-1], 4)


def positive_w(quat_wxyz: Float[np.ndarray, "*steps 4"]) -> Float[np.ndarray, "*steps 4"]:
    """The same rotations, written with ``w >= 0``."""
    return np.where(quat_wxyz[..., :1] < 0, -quat_wxyz, quat_wxyz)


def pose_matrix(
    position: Float[np.ndarray, "*steps 3"], quat_wxyz: Float[np.ndarray, "*steps 4"]
) -> Float[np.ndarray, "*steps 4 4"]:
    """Positions (metres) and rotations as 4x4 matrices."""
    pose = np.zeros((*position.shape[:-1], 4, 4))
    pose[..., :3, :3] = matrix_from_quat(quat_wxyz)
    pose[..., :3, 3] = position
    pose[..., 3, 3] = 1.0
    return pose
