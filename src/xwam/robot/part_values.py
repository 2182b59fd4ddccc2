"""One part's numbers on their way from a column to a state or an action, and back.

Every conversion stands once, its inverse right below it: written numbers <-> ours, the robot's axes <-> the model's,
the slots of a state <-> places, targets <-> actions, changes <-> actions. columns.py puts them one after the other.

In between, rotations are matrices. A *place* says where a part is or should be (a position, a rotation, joints, an
opening), a *change* by how much it moves. Metres, radians; openings are 0 closed, 1 open.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped

from xwam.robot import conventions as written
from xwam.robot.axes import Axes
from xwam.robot.parts import PartSource, What
from xwam.robot.rotations import matrix_from_quat, matrix_from_vector, quat_from_matrix, vector_from_matrix

Columns = Mapping[str, Shaped[np.ndarray, "_N _n"]]
Values = Float[np.ndarray, "N ..."]  # N vectors; of a rotation N matrices


# --- written numbers <-> ours -----------------------------------------------------------------------------------


def values_from_column(part: PartSource, columns: Columns) -> Values:
    """A part's numbers in our units, still in the axes in which they are written."""
    assert part.key is not None
    values = columns[part.key][:, part.start : part.stop].astype(np.float64) * part.factor
    if part.what == "rotation":
        return written.matrix_from_written(values, part.form, part.written_unit)
    if part.what == "gripper" and part.reference == "absolute":
        return written.opening_from_written(values, part.closed * part.scale, part.open * part.scale)
    if part.what == "gripper":
        return values / (part.open - part.closed)
    return values


def values_to_column(part: PartSource, values: Values, columns: dict[str, np.ndarray]) -> None:
    """The inverse of values_from_column."""
    assert part.key is not None
    if part.what == "rotation":
        values = written.written_from_matrix(values, part.form, part.written_unit)
    elif part.what == "gripper" and part.reference == "absolute":
        values = written.written_from_opening(values, part.closed * part.scale, part.open * part.scale)
    elif part.what == "gripper":
        values = values * (part.open - part.closed)
    columns[part.key][:, part.start : part.stop] = values / part.factor


# --- the robot's axes <-> the model's ---------------------------------------------------------------------------


def place_to_model(axes: Axes, what: What, place: Values) -> Values:
    """Places told in the model's axes."""
    if what == "position":
        return axes.vectors_to_model(place)
    return axes.hands_to_model(place) if what == "rotation" else place


def place_to_robot(axes: Axes, what: What, place: Values) -> Values:
    """The inverse of place_to_model."""
    if what == "position":
        return axes.vectors_to_robot(place)
    return axes.hands_to_robot(place) if what == "rotation" else place


def change_to_model(axes: Axes, part: PartSource, change: Values, hand: Values | None) -> Values:
    """Changes told in the model's base. ``hand``: the hand's rotations where they begin, for part.starts_from."""
    return _turned(part.what, change, _model_from_written(axes, part, hand))


def change_to_robot(axes: Axes, part: PartSource, change: Values, hand: Values | None) -> Values:
    """The inverse of change_to_model."""
    return _turned(part.what, change, np.swapaxes(_model_from_written(axes, part, hand), -1, -2))


def _model_from_written(axes: Axes, part: PartSource, hand: Values | None) -> Float[np.ndarray, "*N 3 3"]:
    """The turn from the axes in which changes are written to the model's base."""
    if part.reference != "hand_delta":
        return axes.base_turn
    assert hand is not None
    return hand @ axes.hand_turn.T  # from the robot's hand to the model's hand, and on to the model's base


def _turned(what: What, change: Values, turn: Float[np.ndarray, "*M 3 3"]) -> Values:
    if what == "position":
        return np.einsum("...ij,...j->...i", turn, change)
    return turn @ change @ np.swapaxes(turn, -1, -2) if what == "rotation" else change


# --- the slots of a state <-> places ----------------------------------------------------------------------------


def place_from_slots(what: What, slots: Float[np.ndarray, "N n"]) -> Values:
    """Rotations are quaternions (wxyz) in a state."""
    return matrix_from_quat(slots) if what == "rotation" else slots


def slots_from_place(what: What, place: Values) -> Float[np.ndarray, "N m"]:
    """The inverse of place_from_slots."""
    return quat_from_matrix(place) if what == "rotation" else place


# --- targets <-> actions ----------------------------------------------------------------------------------------


def action_from_target(what: What, target: Values, begin: Values | None) -> Float[np.ndarray, "N m"]:
    """Of poses what leads from ``begin`` to the target; of a gripper -1 closed, 1 open; joints as they are."""
    if what == "gripper":
        return 2 * target - 1
    if what == "joints":
        return target
    assert begin is not None
    return target - begin if what == "position" else vector_from_matrix(target @ np.swapaxes(begin, -1, -2))


def target_from_action(what: What, action: Float[np.ndarray, "N m"], begin: Values | None) -> Values:
    """The inverse of action_from_target."""
    if what == "gripper":
        return (action + 1) / 2
    if what == "joints":
        return action
    assert begin is not None
    return action + begin if what == "position" else matrix_from_vector(action) @ begin


# --- changes <-> actions ----------------------------------------------------------------------------------------


def action_from_changes(what: What, changes: Values, every: int) -> Float[np.ndarray, "M m"]:
    """What every so many changes make together; rotations one after the other."""
    groups = changes.reshape(-1, every, *changes.shape[1:])
    if what != "rotation":
        return groups.sum(axis=1)
    turn = groups[:, 0]
    for step in range(1, every):
        turn = groups[:, step] @ turn
    return vector_from_matrix(turn)


def change_from_action(what: What, action: Float[np.ndarray, "N m"], every: int) -> Values:
    """The inverse of action_from_changes: one of so many equal changes."""
    return matrix_from_vector(action / every) if what == "rotation" else action / every
