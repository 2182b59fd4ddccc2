"""Do actions mean what the robot.json says? They are held against what the states do (data_agreement.py).

Every other way to read the numbers (a target as a change, the hand's axes as the base's, the other order of
quaternions, actions that stand a row later) is tried as well; where one fits far better, the file is wrong.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from xwam.check.data_agreement import MOST_LAG, agreement, agreement_by_row, correlation, moves_of, other_readings
from xwam.check.data_subject import OTHER_ORDER, Finding, Subject
from xwam.robot.parts import PartSource
from xwam.robot.robot_json import layout_of

WINDOW = 8  # steps whose changes are added up to compare sizes
CLEARLY = 0.25  # a better reading must correlate by so much more
CERTAIN = 0.4  # and at least so much
EARLIER = 0.01  # so much more from another row is worth a look


def check_actions(subject: Subject) -> Iterator[Finding]:
    """References, units, timing, grippers."""
    if not subject.motions:
        return
    recorded = {part.name for part in subject.robot.state if part.key is not None}
    for part in (part for part in subject.robot.action if part.key is not None):
        if part.name not in recorded:
            name = f"{'gripper' if part.what == 'gripper' else 'action'} {part.name!r}"
            yield Finding("look", name, "no state of that name: nothing to compare with")
        elif part.what == "gripper":
            yield from _check_gripper(subject, part)
        else:
            yield from _check_reference(subject, part)


def _check_reference(subject: Subject, part: PartSource) -> Iterator[Finding]:
    """Does the state go where the action says? Other readings of the same numbers are tried too."""
    name = f"action {part.name!r}"
    timing = _check_timing(subject, part)
    if timing is not None:
        yield timing
        if timing.level == "wrong":
            return
    written = agreement(subject.robot, subject.motions, part)
    if written is None:
        yield Finding("look", name, "neither actions nor states move: nothing to compare")
        return
    better = _better_reading(subject, part, written)
    if better is not None:
        words, best = better
        yield Finding(
            "wrong", name, f"{words} fits the states better: correlation {best:.2f}, as written {written:.2f}"
        )
        return
    if written < CERTAIN:
        yield Finding(
            "look", name, f"states hardly follow it (correlation {written:.2f}); no other reading fits better"
        )
    else:
        yield Finding("fine", name, f"states follow it (correlation {written:.2f})")
    yield from _check_size(subject, part)
    if part.what == "rotation" and part.form in OTHER_ORDER and part.reference == "absolute":
        yield Finding(
            "look", name, "both orders of quaternions fit targets equally well: compare with the robot's manual"
        )


def _better_reading(subject: Subject, part: PartSource, written: float) -> tuple[str, float] | None:
    """The reading that fits best, in words, and its correlation; None when none fits clearly better than as written."""
    best, least = None, max(CERTAIN, written + CLEARLY)
    for words, robot in other_readings(subject.robot, part):
        found = agreement(robot, subject.motions, part)
        if found is not None and found > least:
            best, least = (words, found), found
    return best


def _check_timing(subject: Subject, part: PartSource) -> Finding | None:
    """Would actions fit better, or as well, from another row? None when they stand where they should.

    ``earlier, written, later``: how well states follow the actions of one row earlier than robot.json says, of that
    row, of one row later. A robot cannot move before its command, so a better fit later is a mistake in the file. A
    slightly better fit one row earlier proves nothing: people continue the motion that they see.
    """
    name, ahead = f"timing of {part.name!r}", subject.robot.action_ahead
    earlier, written, later = agreement_by_row(subject.robot, subject.motions, part, (-1, 0, 1))
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


def _check_size(subject: Subject, part: PartSource) -> Iterator[Finding]:
    """Units and scales: how far the state goes for what the action says.

    Changes are added up over some steps, so that a lag hardly counts. Targets are not: each starts from where the
    robot is.
    """
    commanded, measured = [], []
    for motion in subject.motions:
        moves = moves_of(subject.robot, part, motion.state, motion.action)
        count = min(map(len, moves))
        window = 1 if part.reference == "absolute" else min(WINDOW, count)
        commanded.append(_sums(moves.commanded[:count], window))
        measured.append(_sums(moves.measured[:count], window))
    ratio = float(np.sqrt(_square(measured) / max(_square(commanded), 1e-12)))
    words = f"states move {ratio:.3g} of what actions say"
    if not 0.02 < ratio < 50:
        yield Finding("wrong", f"size of {part.name!r}", f"{words}: unit or scale of one of them is wrong")
    elif not 0.1 < ratio < 10:
        yield Finding("look", f"size of {part.name!r}", f"{words}: is the scale right?")


def _sums(steps: Float[np.ndarray, "N n"], window: int) -> Float[np.ndarray, "M n"]:
    """Of every so many steps in a row."""
    total = np.cumsum(np.vstack([np.zeros(steps.shape[1]), steps]), axis=0)
    return total[window:] - total[: len(total) - window]


def _square(rows: list[np.ndarray]) -> float:
    return (np.concatenate(rows) ** 2).sum()


def _check_gripper(subject: Subject, part: PartSource) -> Iterator[Finding]:
    """Open must open: the command and the opening rise together."""
    name, slots = f"gripper {part.name!r}", layout_of(subject.robot).state_slice(part.name)
    low, high = np.quantile(np.concatenate([motion.state[:, slots] for motion in subject.motions]), [0.01, 0.99])
    if subject.is_declared and (low < -0.1 or high > 1.1):
        yield Finding("wrong", name, f"openings run from {low:.3g} to {high:.3g}: closed and open must make it 0 to 1")
    best = _gripper_correlation(subject, part)
    if not subject.is_declared:
        yield Finding("fine", name, f"positive commands {'open' if best > 0 else 'close'} it (correlation {best:.2f})")
    elif best < -CERTAIN:
        yield Finding("wrong", name, f"opens when told to close (correlation {best:.2f}): swap closed and open of one")
    elif best < CERTAIN:
        yield Finding("look", name, f"hardly follows its command (correlation {best:.2f})")
    else:
        yield Finding("fine", name, f"opens when told to open (correlation {best:.2f})")


def _gripper_correlation(subject: Subject, part: PartSource) -> float:
    """Of the command with the opening some steps later, at the lag where it is strongest; below 0: the wrong way round.

    Targets are held against openings, from the next step on, and changes against changes. Fingers are slower than arms.
    """
    layout, is_target = layout_of(subject.robot), part.reference == "absolute"
    found = []
    for lag in range(1 if is_target else 0, 3 * MOST_LAG):
        commanded, measured = [], []
        for motion in subject.motions:
            count = max(0, min(len(motion.action), len(motion.state)) - lag)
            command = motion.action[:count, layout.action_slice(part.name)]
            opening = motion.state[lag : lag + count, layout.state_slice(part.name)]
            commanded.append(command if is_target else command[:-1])
            measured.append(opening if is_target else np.diff(opening, axis=0))
        found.append(correlation(commanded, measured))
    return max((value for value in found if value is not None), key=abs, default=0.0)
