"""How other people write the same numbers: units, rotations, gripper ranges. Every way in has its way back.

Rotations are matrices in between. ``euler_xyz`` (small letters) turns about the fixed axes x, then y, then z;
``euler_XYZ`` about the moving ones; any order of the three axes is understood. ``rotation_6d`` is the matrix's first
two columns one after the other (Zhou et al., CVPR 2019, arXiv 1812.07035), ``rotation_6d_rows`` its first two rows.
"""

import itertools
import math

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from xwam.strict_json import suggest

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "rad": 1.0, "deg": math.pi / 180, "1": 1.0}
LENGTHS, ANGLES = ("m", "cm", "mm"), ("rad", "deg")
_ORDERS = ["".join(order) for order in itertools.permutations("xyz")]
EULER = tuple(f"euler_{order}" for order in [*_ORDERS, *(order.upper() for order in _ORDERS)])
ROTATION_SIZES = {
    "quat_wxyz": 4,
    "quat_xyzw": 4,
    "axis_angle": 3,
    "matrix": 9,
    "rotation_6d": 6,
    "rotation_6d_rows": 6,
} | dict.fromkeys(EULER, 3)
WITH_ANGLES = ("axis_angle", *EULER)  # forms that have a unit


def check_form(form: str) -> None:
    """Refuse a way of writing rotations that is not known."""
    if form not in ROTATION_SIZES:
        raise ValueError(f"form={form!r}: {suggest(form, ROTATION_SIZES)}")


def matrix_from_written(values: Float[np.ndarray, "N n"], form: str, unit: str) -> Float[np.ndarray, "N 3 3"]:
    """Rotations as someone wrote them to matrices. A quaternion of length 0 raises ValueError."""
    check_form(form)
    values = values.astype(np.float64)
    if form in ("quat_wxyz", "quat_xyzw"):
        return Rotation.from_quat(values, scalar_first=form == "quat_wxyz").as_matrix()
    if form == "axis_angle":
        return Rotation.from_rotvec(values * UNITS[unit]).as_matrix()
    if form in EULER:
        return Rotation.from_euler(form.removeprefix("euler_"), values * UNITS[unit]).as_matrix()
    if form == "matrix":
        return Rotation.from_matrix(values.reshape(-1, 3, 3)).as_matrix()
    matrix = _orthonormal(values[:, :3], values[:, 3:])
    return matrix if form == "rotation_6d" else np.swapaxes(matrix, -1, -2)


def written_from_matrix(matrix: Float[np.ndarray, "N 3 3"], form: str, unit: str) -> Float[np.ndarray, "N n"]:
    """The inverse of matrix_from_written; quaternions come with ``w >= 0``."""
    check_form(form)
    if form == "matrix":
        return matrix.reshape(-1, 9)
    if form == "rotation_6d":
        return np.swapaxes(matrix[:, :, :2], -1, -2).reshape(-1, 6)
    if form == "rotation_6d_rows":
        return matrix[:, :2].reshape(-1, 6)
    rotation = Rotation.from_matrix(matrix)
    if form in ("quat_wxyz", "quat_xyzw"):
        return rotation.as_quat(canonical=True, scalar_first=form == "quat_wxyz")
    if form == "axis_angle":
        return rotation.as_rotvec() / UNITS[unit]
    return rotation.as_euler(form.removeprefix("euler_")) / UNITS[unit]


def opening_from_written(values: Float[np.ndarray, "*any"], closed: float, opened: float) -> Float[np.ndarray, "*any"]:
    """A gripper's numbers to its opening: 0 closed, 1 open."""
    return (values.astype(np.float64) - closed) / (opened - closed)


def written_from_opening(opening: Float[np.ndarray, "*any"], closed: float, opened: float) -> Float[np.ndarray, "*any"]:
    """The inverse of opening_from_written."""
    return closed + opening.astype(np.float64) * (opened - closed)


def _orthonormal(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Matrices whose first two columns span what was written (Gram and Schmidt)."""
    x = first / np.linalg.norm(first, axis=-1, keepdims=True)
    y = second - (x * second).sum(axis=-1, keepdims=True) * x
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=-1)
