"""How well do states follow actions? The measure behind data_actions.py, and the other ways to read an action.

*Commanded* is by how much an action says that a part moves in its step, *measured* by how much the state moves from
step to step. A robot needs time: what is commanded now is measured some steps later, the *lag*. The agreement is the
correlation of both at the lag that fits best: 1 when states do what actions say, about 0 when they do not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from xwam.check.data_motion import between, steps_of
from xwam.check.data_subject import OTHER_ORDER, Motion
from xwam.robot.columns import read_action, read_state
from xwam.robot.parts import PartSource, Reference
from xwam.robot.robot_json import RobotConfig, layout_of

MOST_LAG = 4  # steps; fewer than so many
STILL = 1e-9  # no motion at all
NEAR = 0.5  # targets lie nearer to the state than this share of the distance between any two states


class Moves(NamedTuple):
    """One part in one episode, step by step: metres, radians (rotation vectors), or of a gripper's way."""

    commanded: Float[np.ndarray, "M n"]
    measured: Float[np.ndarray, "S n"]


def moves_of(
    robot: RobotConfig, part: PartSource, state: Float[np.ndarray, "N Ds"], action: Float[np.ndarray, "M Da"]
) -> Moves:
    """What an action part commands and what its state does, out of the states and actions of an episode."""
    layout = layout_of(robot)
    places, commanded = state[:, layout.state_slice(part.name)], action[:, layout.action_slice(part.name)]
    if part.what == "joints" and part.reference == "absolute":  # poses are changes already, joints are targets
        commanded = commanded - places[: len(commanded)]
    return Moves(commanded, steps_of(part, places))


def agreement(robot: RobotConfig, motions: Sequence[Motion], part: PartSource) -> float | None:
    """Read the columns as ``robot`` says, and see how well states follow the part of this name.

    None when nothing moves. 0 when targets are not near the states: whatever swings back correlates with its distance
    from anywhere.
    """
    read = next(other for other in robot.action if other.name == part.name)  # as this robot reads it
    slots, places, moves = layout_of(robot).state_slice(part.name), [], []
    for motion in motions:
        state = read_state(robot, motion.columns)[:: robot.frames_per_action]
        places.append(state[:, slots])
        moves.append(moves_of(robot, read, state, read_action(robot, motion.columns)))
    if read.reference == "absolute" and not _targets_are_near(read, places, moves):
        return 0.0
    found = [_correlation_at(lag, moves) for lag in range(MOST_LAG)]
    return max((value for value in found if value is not None), default=None)


def agreement_by_row(
    robot: RobotConfig, motions: Sequence[Motion], part: PartSource, shifts: Sequence[int]
) -> list[float | None]:
    """The agreement of single frames when actions are fetched from rows so much later; None where there is none."""
    frames = robot.frame_by_frame
    rows = [frames.action_ahead + shift for shift in shifts]
    return [agreement(replace(frames, action_ahead=row), motions, part) if row >= 0 else None for row in rows]


def correlation(commanded: Sequence[np.ndarray], measured: Sequence[np.ndarray]) -> float | None:
    """Pooled over all episodes and slots after each slot's mean is taken off.

    None when one side never moves, or without steps.
    """
    x, y = np.concatenate(commanded), np.concatenate(measured)
    if not len(x):
        return None
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    if min(np.abs(x).max(), np.abs(y).max()) < STILL:
        return None
    return float((x * y).sum() / float(np.sqrt((x**2).sum() * (y**2).sum())))


def other_readings(robot: RobotConfig, part: PartSource) -> Iterator[tuple[str, RobotConfig]]:
    """All other ways to read an action part (and the rotation it starts from), in words."""
    references: list[Reference] = ["absolute", "delta"]
    if part.what != "joints" and f"{part.arm}_rotation" in {other.name for other in robot.state if other.key}:
        references.append("hand_delta")
    for reference in references:
        if reference != part.reference and (part.scale == 1 or reference != "absolute"):
            yield f"reference={reference!r}", _with_action(robot, replace(part, reference=reference))
    if part.what != "rotation":
        return
    if part.form in OTHER_ORDER:
        form = OTHER_ORDER[part.form]
        yield f"form={form!r}", _with_action(robot, replace(part, form=form))
    start = next((other for other in robot.state if other.name == part.name), None)
    if start is not None and start.form in OTHER_ORDER:
        form = OTHER_ORDER[start.form]
        yield f"form={form!r} of the state", _with_state(robot, replace(start, form=form))


def _with_action(robot: RobotConfig, part: PartSource) -> RobotConfig:
    """The robot with another part of this name."""
    return replace(robot, action=tuple(part if other.name == part.name else other for other in robot.action))


def _with_state(robot: RobotConfig, part: PartSource) -> RobotConfig:
    return replace(robot, state=tuple(part if other.name == part.name else other for other in robot.state))


def _correlation_at(lag: int, moves: Sequence[Moves]) -> float | None:
    """Of each commanded step with the step measured ``lag`` steps later."""
    commanded, measured = [], []
    for move in moves:
        count = min(len(move.commanded), len(move.measured) - lag)
        if count > 1:
            commanded.append(move.commanded[:count])
            measured.append(move.measured[lag : lag + count])
    return correlation(commanded, measured) if commanded else None


def _targets_are_near(part: PartSource, places: Sequence[np.ndarray], moves: Sequence[Moves]) -> bool:
    """True when targets lie near the states they start from, measured by how far states lie apart."""
    every, ways = np.concatenate(places), np.concatenate([move.commanded for move in moves])
    apart = between(part, every, np.roll(every, len(every) // 2, axis=0))  # each with one half of the data set later
    return float((ways**2).sum(axis=1).mean()) <= NEAR**2 * float((apart**2).sum(axis=1).mean())
