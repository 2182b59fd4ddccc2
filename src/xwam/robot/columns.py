"""A robot's own columns <-> states and actions of its layout, as its ``robot.json`` says.

Reading goes frame by frame; then every ``frames_per_action`` frames become one action: targets are those of the last
frame, changes add up (rotations one after the other). What is left over at the end has no action. Where actions stand
``action_ahead`` rows later than what the robot saw before them, they are fetched from there.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped

from xwam.config import suggest
from xwam.robot import conventions as written
from xwam.robot.parts import PartSource
from xwam.robot.robot_json import RobotConfig, layout_of
from xwam.robot.rotations import matrix_from_quat, matrix_from_vector, quat_from_matrix, vector_from_matrix

Columns = Mapping[str, Shaped[np.ndarray, "_N _n"]]


def check_columns(robot: RobotConfig, widths: Mapping[str, int]) -> None:
    """Refuse a data set whose columns (name -> width) do not hold what the robot's parts say."""
    for part in (*robot.state, *robot.action):
        if part.key is None:
            continue
        if part.key not in widths:
            raise ValueError(f"part {part.name!r} key={part.key!r}: {suggest(part.key, widths)}")
        if part.stop > widths[part.key]:
            raise ValueError(
                f"part {part.name!r} reads slots {part.start}..{part.stop - 1} of {part.key!r}: the data set has "
                f"{widths[part.key]} there; correct start, size or form."
            )


def column_widths(parts: tuple[PartSource, ...]) -> dict[str, int]:
    """The columns that these parts are in, and how many numbers each holds up to the last of them."""
    widths: dict[str, int] = {}
    for part in parts:
        if part.key is not None:
            widths[part.key] = max(widths.get(part.key, 0), part.stop)
    return widths


def read_state(robot: RobotConfig, columns: Columns) -> Float[np.ndarray, "N Ds"]:
    """States of every frame in the layout's units."""
    layout, length = layout_of(robot), _length(columns)
    state = np.zeros((length, layout.state_width))
    for part in robot.state:
        if part.key is not None:
            values = _read_rotation(robot, part, columns) if part.what == "rotation" else _read(robot, part, columns)
            state[:, layout.state_slice(part.name)] = values if part.what != "rotation" else quat_from_matrix(values)
    return state


def read_action(robot: RobotConfig, columns: Columns) -> Float[np.ndarray, "M Da"]:
    """Actions in the layout's units, one for every whole group of ``frames_per_action`` frames."""
    layout, every, ahead = layout_of(robot), robot.frames_per_action, robot.action_ahead
    action = np.zeros((max(0, _length(columns) - ahead) // every, layout.action_width))
    end = len(action) * every
    first, last = slice(0, end, every), slice(ahead + every - 1, ahead + end, every)
    state = {part.name: part for part in robot.state}
    for part in robot.action:
        if part.key is None:
            continue
        if part.what == "rotation":
            turns = _read_rotation(robot, part, columns)
            if part.reference == "absolute":
                now = _read_rotation(robot, state[part.name], columns)
                turns = turns[last] @ np.swapaxes(now[first], -1, -2)
            else:
                turns = _chained(_in_base(robot, part, turns[ahead : ahead + end], columns), every)
            values = vector_from_matrix(turns)
        else:
            values = _read(robot, part, columns)
            if part.reference != "absolute":
                values = _in_base(robot, part, values[ahead : ahead + end], columns)
                values = values.reshape(len(action), every, values.shape[-1]).sum(axis=1)
            elif part.what == "position":
                values = values[last] - _read(robot, state[part.name], columns)[first]
            else:
                values = 2 * values[last] - 1 if part.what == "gripper" else values[last]
        action[:, layout.action_slice(part.name)] = values
    return action


def write_state(robot: RobotConfig, state: Float[np.ndarray, "N Ds"]) -> dict[str, Float[np.ndarray, "_N _n"]]:
    """The inverse of read_state; slots that no part names are 0."""
    layout, axes = layout_of(robot), robot.axes
    columns = _empty_columns(robot.state, len(state))
    for part in robot.state:
        if part.key is not None:
            values = state[:, layout.state_slice(part.name)].astype(np.float64)
            if part.what == "rotation":
                values = axes.hands_to_robot(matrix_from_quat(values))
            elif part.what == "position":
                values = axes.vectors_to_robot(values)
            _write(part, values, columns)
    return columns


def write_action(
    robot: RobotConfig, action: Float[np.ndarray, "N Da"], state: Float[np.ndarray, "N Ds"]
) -> dict[str, Float[np.ndarray, "_N _n"]]:
    """The robot's own commands for actions that begin at these states, to be sent in each frame of the action.

    The inverse of read_action: targets are reached, changes are shared out over the frames.
    """
    layout, axes, every = layout_of(robot), robot.axes, robot.frames_per_action
    columns = _empty_columns(robot.action, len(action))
    for part in robot.action:
        if part.key is None:
            continue
        values = action[:, layout.action_slice(part.name)].astype(np.float64)
        is_change = part.reference != "absolute"
        if part.what in ("position", "rotation") and is_change:
            values = axes.vectors_to_robot(values) / every
            if part.reference == "hand_delta":
                values = np.einsum("nji,nj->ni", _hand(robot, part.arm, state), values)
            values = matrix_from_vector(values) if part.what == "rotation" else values
        elif part.what == "rotation":
            now = matrix_from_quat(state[:, layout.state_slice(part.name)])
            values = axes.hands_to_robot(matrix_from_vector(values) @ now)
        elif part.what == "position":
            values = axes.vectors_to_robot(values + state[:, layout.state_slice(part.name)])
        elif is_change:
            values = values / every
        elif part.what == "gripper":
            values = (values + 1) / 2
        _write(part, values, columns)
    return columns


def follow(
    robot: RobotConfig, state: Float[np.ndarray, " Ds"], action: Float[np.ndarray, "N Da"]
) -> Float[np.ndarray, "N Ds"]:
    """The states at which the actions of a chunk begin, if every one of them is carried out to the letter."""
    layout = layout_of(robot)
    states = np.repeat(state[None].astype(np.float64), len(action), axis=0)
    known = {part.name for part in robot.state if part.key is not None}
    for part in robot.action:
        if part.key is None or part.name not in known:
            continue
        slots, values = layout.state_slice(part.name), action[:-1, layout.action_slice(part.name)]
        if part.what == "rotation":
            turn = matrix_from_quat(states[0, slots])
            for step, change in enumerate(matrix_from_vector(values.astype(np.float64)), start=1):
                turn = change @ turn
                states[step, slots] = quat_from_matrix(turn)
        elif part.what == "position" or part.reference != "absolute":
            states[1:, slots] += np.cumsum(values, axis=0)
        else:
            states[1:, slots] = (values + 1) / 2 if part.what == "gripper" else values
    return states


def _length(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _read(robot: RobotConfig, part: PartSource, columns: Columns) -> Float[np.ndarray, "N n"]:
    """Positions, joints and openings in our units; absolute positions in the model's axes."""
    assert part.key is not None
    values = columns[part.key][:, part.start : part.stop].astype(np.float64) * part.factor
    if part.what == "gripper":
        if part.reference == "absolute":
            return written.opening_from_written(values, part.closed * part.scale, part.open * part.scale)
        return values / (part.open - part.closed)
    is_place = part.what == "position" and part.reference == "absolute"
    return robot.axes.vectors_to_model(values) if is_place else values


def _read_rotation(robot: RobotConfig, part: PartSource, columns: Columns) -> Float[np.ndarray, "N 3 3"]:
    """Rotations as matrices; absolute ones in the model's axes."""
    assert part.key is not None
    values = columns[part.key][:, part.start : part.stop].astype(np.float64) * part.factor
    turns = written.matrix_from_written(values, part.form, part.written_unit)
    return robot.axes.hands_to_model(turns) if part.reference == "absolute" else turns


def _in_base(robot: RobotConfig, part: PartSource, values: np.ndarray, columns: Columns) -> np.ndarray:
    """Changes (vectors or matrices) that begin at the first frames, in the model's base axes."""
    if part.what not in ("position", "rotation"):
        return values
    turn = np.broadcast_to(robot.axes.base_turn, (len(values), 3, 3))
    if part.reference == "hand_delta":
        turn = turn @ _hand(robot, part.arm, read_state(robot, columns)[: len(values)])
    if part.what == "rotation":
        return turn @ values @ np.swapaxes(turn, -1, -2)
    return np.einsum("nij,nj->ni", turn, values)


def _hand(robot: RobotConfig, arm: str, state: Float[np.ndarray, "N Ds"]) -> Float[np.ndarray, "N 3 3"]:
    """The hand's rotation in the robot's own base, out of states."""
    quat = state[:, layout_of(robot).state_slice(f"{arm}_rotation")]
    return robot.axes.hands_to_robot(matrix_from_quat(quat))


def _chained(turns: Float[np.ndarray, "N 3 3"], every: int) -> Float[np.ndarray, "M 3 3"]:
    groups = turns.reshape(-1, every, 3, 3)
    result = groups[:, 0]
    for step in range(1, every):
        result = groups[:, step] @ result
    return result


def _empty_columns(parts: tuple[PartSource, ...], length: int) -> dict[str, np.ndarray]:
    return {key: np.zeros((length, width)) for key, width in column_widths(parts).items()}


def _write(part: PartSource, values: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """Put values (matrices for rotations) into their column as the robot writes them."""
    assert part.key is not None
    if part.what == "rotation":
        values = written.written_from_matrix(values, part.form, part.written_unit)
    elif part.what == "gripper" and part.reference == "absolute":
        values = written.written_from_opening(values, part.closed * part.scale, part.open * part.scale)
    elif part.what == "gripper":
        values = values * (part.open - part.closed)
    columns[part.key][:, part.start : part.stop] = values / part.factor
