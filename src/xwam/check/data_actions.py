"""Do actions mean what the robot.json says? Integrated, they are held against the states.

The measure is a correlation: of what an action announces with what the state does next, the best over a few steps of
delay. Every other way to read the numbers (a target as a change, the hand's axes as the base's, the other order of
quaternions, actions that stand a row later) is tried as well; where one fits far better, the file is wrong.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from xwam.check.data_motion import between, steps_of
from xwam.check.data_subject import OTHER_ORDER, Finding, Motion, Subject
from xwam.robot.columns import read_action, read_state
from xwam.robot.parts import PartSource, Reference
from xwam.robot.robot_json import RobotConfig, layout_of

MOST_DELAY = 4  # steps between a command and what it does
WINDOW = 8  # steps whose changes are added up to compare sizes
CLEARLY = 0.25  # a better reading must correlate by so much more
CERTAIN = 0.4  # and at least so much
EARLIER = 0.01  # so much more from another row is worth a look
STILL = 1e-9  # no motion at all
NEAR = 0.5  # targets lie nearer to the state than this share of the distance between any two states


def check_actions(subject: Subject) -> Iterator[Finding]:
    """References, units, timing, grippers."""
    if not subject.motions:
        return
    for part in (part for part in subject.robot.action if part.key is not None):
        if part.what == "gripper":
            yield from _check_gripper(subject, part)
        else:
            yield from _check_reference(subject, part)


def _check_reference(subject: Subject, part: PartSource) -> Iterator[Finding]:
    """Does the state go where the action says? Other readings of the same numbers are tried too."""
    name = f"action {part.name!r}"
    if part.name not in {other.name for other in subject.robot.state if other.key is not None}:
        yield Finding("look", name, "no state of that name: nothing to compare with")
        return
    declared = _agreement(subject.robot, subject.motions, part)
    timing = _check_timing(subject, part)
    if timing is not None:
        yield timing
        if timing.level == "wrong":
            return
    if declared is None:
        yield Finding("look", name, "neither actions nor states move: nothing to compare")
        return
    best, change = declared, ""
    for words, robot in _readings(subject.robot, part):
        other = _agreement(robot, subject.motions, part)
        if other is not None and other > max(best, CERTAIN, declared + CLEARLY):
            best, change = other, words
    if change:
        yield Finding(
            "wrong", name, f"{change} fits the states better: correlation {best:.2f}, as written {declared:.2f}"
        )
    elif declared < CERTAIN:
        yield Finding(
            "look", name, f"states hardly follow it (correlation {declared:.2f}); no other reading fits better"
        )
    else:
        yield Finding("fine", name, f"states follow it (correlation {declared:.2f})")
    if not change:
        yield from _check_size(subject, part)
    if part.what == "rotation" and OTHER_ORDER.get(part.form) and part.reference == "absolute" and not change:
        yield Finding(
            "look", name, "both orders of quaternions fit targets equally well: compare with the robot's manual"
        )


def _check_timing(subject: Subject, part: PartSource) -> Finding | None:
    """Would actions fit better, or as well, from another row? None when they stand where they should.

    ``earlier, written, later``: how well states follow the actions of one row earlier than robot.json says, of that
    row, of one row later. A robot cannot move before its command, so a better fit later is a mistake in the file. A
    slightly better fit one row earlier proves nothing: people continue the motion that they see.
    """
    name, ahead = f"timing of {part.name!r}", subject.robot.action_ahead
    earlier, written, later = _agreement_by_row(subject, part, (-1, 0, 1))
    if later is not None and later > max(CERTAIN, (written or 0.0) + CLEARLY):
        text = f"states move before they are told to: action_ahead={ahead + 1} fits better"
        return Finding("wrong", name, f"{text} (correlation {later:.2f}, as written {written or 0.0:.2f})")
    if written is None or later is None:
        return None
    if later > max(CERTAIN, written + EARLIER) and part.reference != "absolute":
        text = f"action_ahead={ahead + 1} fits a little better (correlation {later:.3f}, as written {written:.3f})"
        return Finding("look", name, f"{text}: were states written after the actions beside them?")
    if earlier is not None and earlier > max(CERTAIN, written - EARLIER):
        return Finding("look", name, f"action_ahead={ahead - 1} fits as well: ask how the files were written")
    return None


def _agreement_by_row(subject: Subject, part: PartSource, shifts: Sequence[int]) -> list[float | None]:
    """The agreement of single frames when actions are fetched from rows so much later; None where there is none."""
    frames = subject.robot.frame_by_frame
    rows = [frames.action_ahead + shift for shift in shifts]
    return [_agreement(replace(frames, action_ahead=row), subject.motions, part) if row >= 0 else None for row in rows]


def _check_size(subject: Subject, part: PartSource) -> Iterator[Finding]:
    """Units and scales: how far the state goes for what the action says, over some steps."""
    said, done = [], []
    for motion in subject.motions:
        move, steps = _announced(subject.robot, part, motion.state, motion.action)
        count = min(len(move), len(steps))
        window = 1 if part.reference == "absolute" else min(WINDOW, count)  # each target starts from where the robot is
        for rows, sums in ((move, said), (steps, done)):
            total = np.cumsum(np.vstack([np.zeros(rows.shape[1]), rows[:count]]), axis=0)
            sums.append(total[window:] - total[: len(total) - window])
    ratio = float(np.sqrt((np.concatenate(done) ** 2).sum() / max((np.concatenate(said) ** 2).sum(), 1e-12)))
    words = f"states move {ratio:.3g} of what actions say"
    if not 0.02 < ratio < 50:
        yield Finding("wrong", f"size of {part.name!r}", f"{words}: unit or scale of one of them is wrong")
    elif not 0.1 < ratio < 10:
        yield Finding("look", f"size of {part.name!r}", f"{words}: is the scale right?")


def _check_gripper(subject: Subject, part: PartSource) -> Iterator[Finding]:
    """Open must open: the command and the opening rise together."""
    name, layout = f"gripper {part.name!r}", layout_of(subject.robot)
    states = {other.name for other in subject.robot.state if other.key is not None}
    if part.name not in states:
        yield Finding("look", name, "no state of that name: nothing to compare with")
        return
    here, there = layout.action_slice(part.name), layout.state_slice(part.name)
    opening = np.concatenate([motion.state[:, there] for motion in subject.motions])
    low, high = np.quantile(opening, [0.01, 0.99])
    if subject.is_declared and (low < -0.1 or high > 1.1):
        yield Finding("wrong", name, f"openings run from {low:.3g} to {high:.3g}: closed and open must make it 0 to 1")
    best = 0.0
    for delay in range(1 if part.reference == "absolute" else 0, 3 * MOST_DELAY):
        ends = [len(motion.action) - delay for motion in subject.motions]
        pairs = [(m.action[:end, here], m.state[delay:, there]) for m, end in zip(subject.motions, ends, strict=True)]
        pairs = [(command[: len(o)], o[: len(command)]) for command, o in pairs]
        if part.reference != "absolute":
            pairs = [(command[:-1], np.diff(o, axis=0)) for command, o in pairs]
        found = _correlation([command for command, _ in pairs], [o for _, o in pairs])
        best = found if found is not None and abs(found) > abs(best) else best
    if not subject.is_declared:
        yield Finding("fine", name, f"positive commands {'open' if best > 0 else 'close'} it (correlation {best:.2f})")
    elif best < -CERTAIN:
        yield Finding("wrong", name, f"opens when told to close (correlation {best:.2f}): swap closed and open of one")
    elif best < CERTAIN:
        yield Finding("look", name, f"hardly follows its command (correlation {best:.2f})")
    else:
        yield Finding("fine", name, f"opens when told to open (correlation {best:.2f})")


def _readings(robot: RobotConfig, part: PartSource) -> Iterator[tuple[str, RobotConfig]]:
    """All other ways to read an action part (and the rotation it starts from), in words."""
    references: list[Reference] = ["absolute", "delta"]
    if part.what != "joints" and f"{part.arm}_rotation" in {other.name for other in robot.state if other.key}:
        references.append("hand_delta")
    for reference in references:
        if reference != part.reference and (part.scale == 1 or reference != "absolute"):
            yield f"reference={reference!r}", _with(robot, replace(part, reference=reference), is_action=True)
    if part.what == "rotation" and part.form in OTHER_ORDER:
        yield (
            f"form={OTHER_ORDER[part.form]!r}",
            _with(robot, replace(part, form=OTHER_ORDER[part.form]), is_action=True),
        )
    state = next((other for other in robot.state if other.name == f"{part.arm}_rotation"), None)
    if part.what == "rotation" and state is not None and state.form in OTHER_ORDER:
        changed = replace(state, form=OTHER_ORDER[state.form])
        yield f"form={OTHER_ORDER[state.form]!r} of the state", _with(robot, changed, is_action=False)


def _with(robot: RobotConfig, part: PartSource, *, is_action: bool) -> RobotConfig:
    parts = robot.action if is_action else robot.state
    changed = tuple(part if other.name == part.name else other for other in parts)
    return replace(robot, action=changed) if is_action else replace(robot, state=changed)


def _agreement(robot: RobotConfig, motions: Sequence[Motion], part: PartSource) -> float | None:
    """Correlation of what a part's actions announce with what the state does, at the best delay.

    0 when targets are not near the states: whatever swings back correlates with its distance from anywhere.
    """
    read = [(read_state(robot, m.columns)[:: robot.frames_per_action], read_action(robot, m.columns)) for m in motions]
    actual = next(other for other in robot.action if other.name == part.name)
    if actual.reference == "absolute" and not _are_near(robot, actual, read):
        return 0.0
    found: list[float] = []
    for delay in range(MOST_DELAY):
        said, done = [], []
        for state, action in read:
            move, steps = _announced(robot, actual, state, action)
            count = min(len(move), len(steps) - delay)
            if count > 1:
                said.append(move[:count])
                done.append(steps[delay : delay + count])
        if said and (value := _correlation(said, done)) is not None:
            found.append(value)
    return max(found) if found else None


def _are_near(robot: RobotConfig, part: PartSource, read: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    """True when targets lie near the states they start from, measured by how far states lie apart."""
    slots = layout_of(robot).state_slice(part.name)
    every = np.concatenate([state[:, slots] for state, _ in read])
    moves = np.concatenate([_announced(robot, part, state, action)[0] for state, action in read])
    apart = between(part, every, np.roll(every, len(every) // 2, axis=0))
    return float((moves**2).sum(axis=1).mean()) <= NEAR**2 * float((apart**2).sum(axis=1).mean())


def _announced(
    robot: RobotConfig, part: PartSource, state: Float[np.ndarray, "N Ds"], action: Float[np.ndarray, "M Da"]
) -> tuple[Float[np.ndarray, "M n"], Float[np.ndarray, "_S n"]]:
    """What an action part says the state will do, and what it does from step to step."""
    layout = layout_of(robot)
    values, move = state[:, layout.state_slice(part.name)], action[:, layout.action_slice(part.name)]
    if part.what == "joints" and part.reference == "absolute":
        move = move - values[: len(move)]
    return move, steps_of(part, values)


def _correlation(said: Sequence[np.ndarray], done: Sequence[np.ndarray]) -> float | None:
    """Pooled over all slots after each slot's mean is taken off; None when one side never moves, or without steps."""
    a, b = np.concatenate(said), np.concatenate(done)
    if not len(a):
        return None
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    if min(np.abs(a).max(), np.abs(b).max()) < STILL:
        return None
    return float((a * b).sum() / size)
