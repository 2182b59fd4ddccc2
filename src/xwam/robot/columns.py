"""A robot's own columns <-> states and actions of its layout, as its ``robot.json`` says.

Reading goes frame by frame; then every ``frames_per_action`` frames become one action: targets are those of the last
frame, changes add up (rotations one after the other). What is left over at the end has no action. Where actions stand
``action_ahead`` rows later than what the robot saw before them, they are fetched from there. The conversions themselves
are in part_values.py.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from xwam.robot import part_values as convert
from xwam.robot.axes import Axes
from xwam.robot.layout import Layout
from xwam.robot.part_values import Columns, Values
from xwam.robot.parts import PartSource
from xwam.robot.robot_json import RobotConfig, layout_of
from xwam.strict_json import suggest


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
    layout = layout_of(robot)
    state = np.zeros((_length(columns), layout.state_width))
    for part in _recorded(robot.state):
        place = _read_place(robot.axes, part, columns)
        state[:, layout.state_slice(part.name)] = convert.slots_from_place(part.what, place)
    return state


def write_state(robot: RobotConfig, state: Float[np.ndarray, "N Ds"]) -> dict[str, Float[np.ndarray, "_N _n"]]:
    """The inverse of read_state; slots that no part names are 0."""
    layout, columns = layout_of(robot), _empty_columns(robot.state, len(state))
    for part in _recorded(robot.state):
        place = convert.place_to_robot(robot.axes, part.what, _place_in(layout, part, state))
        convert.values_to_column(part, place, columns)
    return columns


def read_action(robot: RobotConfig, columns: Columns) -> Float[np.ndarray, "M Da"]:
    """Actions in the layout's units, one for every whole group of ``frames_per_action`` frames."""
    layout, axes, every, ahead = layout_of(robot), robot.axes, robot.frames_per_action, robot.action_ahead
    action = np.zeros((max(0, _length(columns) - ahead) // every, layout.action_width))
    end = len(action) * every
    for part in _recorded(robot.action):
        values, origin = convert.values_from_column(part, columns)[ahead : ahead + end], _origin(robot, part)
        begin = None if origin is None else _read_place(axes, origin, columns)[:end]
        if part.reference == "absolute":  # from the place in the first frame to the target in the last
            target = convert.place_to_model(axes, part.what, values[every - 1 :: every])
            values = convert.action_from_target(part.what, target, None if begin is None else begin[::every])
        else:
            changes = convert.change_to_model(axes, part, values, begin)
            values = convert.action_from_changes(part.what, changes, every)
        action[:, layout.action_slice(part.name)] = values
    return action


def write_action(
    robot: RobotConfig, action: Float[np.ndarray, "N Da"], state: Float[np.ndarray, "N Ds"]
) -> dict[str, Float[np.ndarray, "_N _n"]]:
    """The robot's own commands for actions that begin at these states, to be sent in each frame of the action.

    The inverse of read_action: targets are reached, changes are shared out over the frames.
    """
    layout, axes, columns = layout_of(robot), robot.axes, _empty_columns(robot.action, len(action))
    for part in _recorded(robot.action):
        values, origin = action[:, layout.action_slice(part.name)].astype(np.float64), _origin(robot, part)
        begin = None if origin is None else _place_in(layout, origin, state)
        if part.reference == "absolute":
            values = convert.place_to_robot(axes, part.what, convert.target_from_action(part.what, values, begin))
        else:
            change = convert.change_from_action(part.what, values, robot.frames_per_action)
            values = convert.change_to_robot(axes, part, change, begin)
        convert.values_to_column(part, values, columns)
    return columns


def follow(
    robot: RobotConfig, state: Float[np.ndarray, " Ds"], action: Float[np.ndarray, "N Da"]
) -> Float[np.ndarray, "N Ds"]:
    """The states at which the actions of a chunk begin, if every one of them is carried out to the letter."""
    layout = layout_of(robot)
    states = np.repeat(state[None].astype(np.float64), len(action), axis=0)
    known = {part.name for part in _recorded(robot.state)}
    for part in (part for part in _recorded(robot.action) if part.name in known):
        slots, values = layout.state_slice(part.name), action[:, layout.action_slice(part.name)].astype(np.float64)
        for step in range(len(action) - 1):
            now, value = _place_in(layout, part, states[[step]]), values[[step]]
            is_sum = part.what in ("joints", "gripper") and part.reference != "absolute"
            then = now + value if is_sum else convert.target_from_action(part.what, value, now)
            states[step + 1, slots] = convert.slots_from_place(part.what, then)[0]
    return states


def _length(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _empty_columns(parts: tuple[PartSource, ...], length: int) -> dict[str, np.ndarray]:
    return {key: np.zeros((length, width)) for key, width in column_widths(parts).items()}


def _recorded(parts: tuple[PartSource, ...]) -> list[PartSource]:
    """Those that the data set has."""
    return [part for part in parts if part.key is not None]


def _origin(robot: RobotConfig, part: PartSource) -> PartSource | None:
    """The part of the state from which an action part starts; None: it means the same everywhere."""
    return next((other for other in robot.state if other.name == part.starts_from), None)


def _read_place(axes: Axes, part: PartSource, columns: Columns) -> Values:
    """Where a part of the state is in every frame, in the model's axes."""
    return convert.place_to_model(axes, part.what, convert.values_from_column(part, columns))


def _place_in(layout: Layout, part: PartSource, state: Float[np.ndarray, "N Ds"]) -> Values:
    """Where a part is in every state."""
    return convert.place_from_slots(part.what, state[:, layout.state_slice(part.name)].astype(np.float64))
