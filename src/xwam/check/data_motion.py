"""Do states move as a robot does? Slots that stand still, jumps, quaternions that flicker."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from xwam.check.data_subject import OTHER_ORDER, Finding, Subject, finding_of
from xwam.robot.layout import layout_slices
from xwam.robot.parts import ANGLES, PartSource
from xwam.robot.robot_json import layout_of
from xwam.robot.rotations import matrix_from_quat, vector_from_matrix

FAST = {"position": 0.15, "rotation": 0.6, "joints": 0.6}  # a jump in one step is at least this long
MOVES = 1e-3  # metres, radians, or of a gripper's way
OUTLIER = 10.0  # and this many times the 90 % quantile of all steps
FULL = 100.0  # per cent of a joint's range
FAR = {"position": (5.0, 20.0, "m", "mm"), "joints": (6.6, 20.0, "rad", "deg")}  # from where on: look, wrong


def check_motion(subject: Subject) -> Iterator[Finding]:
    """Constant slots, jumps, quaternions."""
    if not subject.motions:
        yield Finding("wrong", "motion", "no episode has whole numbers: see above")
        return
    yield from _check_constant(subject)
    yield from _check_far(subject)
    yield from _check_degrees(subject)
    yield from _check_jumps(subject)
    for part in (part for part in subject.robot.state if part.what == "rotation" and part.key is not None):
        yield from _check_quaternions(subject, part)


def _check_constant(subject: Subject) -> Iterator[Finding]:
    """Slots that never change: nobody recorded them, or the robot has no such motion."""
    layout, motions, quiet = layout_of(subject.robot), subject.motions, True
    moving = set().union(*(moving_arms(subject, motion.state) for motion in motions))
    for what, parts, rows in (
        ("state", layout.state, [motion.state for motion in motions]),
        ("action", layout.action, [motion.action for motion in motions]),
    ):
        every = np.concatenate(rows)
        for part, slots in layout_slices(parts):
            still = np.flatnonzero(np.ptp(every[:, slots], axis=0) < 1e-9)
            if not part.is_used or not len(still):
                continue
            quiet = False
            moves = part.kind in ("position", "joint_position", "joint_command", "delta_joint", "delta_position")
            rests = moving and part.name.rpartition("_")[0] not in moving  # and another arm does not
            level = "wrong" if len(still) == part.size and moves and not rests else "look"
            advice = "does this arm rest in all episodes?" if rests else "is it recorded? is it the right slot?"
            yield Finding(
                level, "constant slots", f"{what} {part.name!r} slots {still.tolist()} never change: {advice}"
            )
    if quiet:
        yield Finding("fine", "constant slots", "every slot that is used changes")


def moving_arms(subject: Subject, state: Float[np.ndarray, "N Ds"]) -> set[str]:
    """The arms of which some number changes."""
    layout = layout_of(subject.robot)
    parts = [part for part in subject.robot.state if part.key is not None]
    return {part.arm for part in parts if np.ptp(state[:, layout.state_slice(part.name)], axis=0).max() >= MOVES}


def _check_far(subject: Subject) -> Iterator[Finding]:
    """Places that no hand reaches, turns that no joint makes: a unit that nobody said."""
    layout = layout_of(subject.robot)
    every = np.concatenate([motion.state for motion in subject.motions])
    for part in (part for part in subject.robot.state if part.key is not None and part.what in FAR):
        look, wrong, unit, other = FAR[part.what]
        most = float(np.abs(every[:, layout.state_slice(part.name)]).max())
        if most > look and (part.what == "position" or part.written_unit in ANGLES):
            words = f"{part.name!r} reaches {most:.3g} {unit}: is it written in {other}? robot.json must say unit"
            yield Finding("wrong" if most > wrong else "look", "units", words)


def _check_degrees(subject: Subject) -> Iterator[Finding]:
    """Joints that reach 100 as written and never pass it: LeRobot before 0.5 wrote per cent of the range by default."""
    written: dict[str, float] = {}
    for part in (*subject.robot.state, *subject.robot.action):
        in_degrees = part.what == "joints" and part.written_unit == "deg" and part.reference == "absolute"
        if in_degrees and part.key is not None:
            rows = [motion.columns[part.key][:, part.start : part.stop] for motion in subject.motions]
            most = float(np.abs(np.concatenate(rows)).max())
            written[part.name] = max(most, written.get(part.name, 0.0))
    for name, most in written.items():
        if FULL - 0.5 <= most <= FULL + 1e-3:
            words = f"{name!r} reaches {most:.4g} and never more: perhaps it is per cent of the range, not degrees"
            advice = (
                "it would be played as degrees; recorded with LeRobot before 0.5? Then say unit 1 (docs/lerobot.md)"
            )
            yield Finding("look", "units", f"{words}: {advice}")


def _check_jumps(subject: Subject) -> Iterator[Finding]:
    """Steps that no robot makes."""
    layout, found = layout_of(subject.robot), []
    for part in (part for part in subject.robot.state if part.what != "gripper" and part.key is not None):
        steps = [steps_of(part, motion.state[:, layout.state_slice(part.name)]) for motion in subject.motions]
        sizes = np.concatenate([np.linalg.norm(rows, axis=1) for rows in steps])
        if not len(sizes):
            continue
        least = max(FAST[part.what], OUTLIER * float(np.quantile(sizes, 0.9)))
        for motion, rows in zip(subject.motions, steps, strict=True):
            for frame in np.flatnonzero(np.linalg.norm(rows, axis=1) > least).tolist():
                size, unit = float(np.linalg.norm(rows[frame])), "m" if part.what == "position" else "rad"
                wraps = " (an angle that wraps?)" if abs(size - 2 * np.pi) < 0.3 else ""
                found.append(f"{part.name!r} by {size:.3g} {unit} after step {frame} of {motion.episode}{wraps}")
    yield finding_of("jumps", found, "no state jumps", "cut the episodes there")


def _check_quaternions(subject: Subject, part: PartSource) -> Iterator[Finding]:
    """Length 1, the order that the slots' names tell, and no flicker between the two writings of a rotation."""
    name, assumed = f"quaternion {part.name!r}", OTHER_ORDER.get(part.form)
    if assumed is not None:
        assert part.key is not None
        rows = [motion.columns[part.key][:, part.start : part.stop] for motion in subject.motions]
        off = float(np.abs(np.linalg.norm(np.concatenate(rows), axis=1) - 1).max())
        if off > 0.02:
            yield Finding(
                "wrong", name, f"lengths are off 1 by up to {off:.2g}: are start={part.start} and form right?"
            )
        order = _named_order(subject.names.get(part.key, [])[part.start : part.stop])
        if order is not None and order != part.form:
            yield Finding("wrong", name, f"form={part.form!r}, but the data set's names of the slots say {order!r}")
        flips = sum(int((np.einsum("ij,ij->i", one[1:], one[:-1]) < 0).sum()) for one in rows)
        if flips:
            yield Finding("look", name, f"sign flips {flips} times in the files; it is read with w >= 0")
    slots = layout_of(subject.robot).state_slice(part.name)
    flicker = 0
    for motion in subject.motions:
        quats = motion.state[:, slots]
        flicker += int((np.einsum("ij,ij->i", quats[1:], quats[:-1]) < -0.5).sum())
    if flicker:
        yield Finding(
            "look",
            name,
            f"turns by about half a turn, where w >= 0 flips all numbers ({flicker} times): hand_turn helps",
        )
    else:
        yield Finding("fine", name, "no flicker in the numbers that the model sees")


def steps_of(part: PartSource, values: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "_S m"]:
    """The motion from each step to the next."""
    return between(part, values[:-1], values[1:])


def between(part: PartSource, now: Float[np.ndarray, "N n"], then: Float[np.ndarray, "N n"]) -> np.ndarray:
    """The motion that leads from one state to another."""
    if part.what != "rotation":
        return then - now
    return vector_from_matrix(matrix_from_quat(then) @ np.swapaxes(matrix_from_quat(now), -1, -2))


def _named_order(names: Sequence[str]) -> str | None:
    """The order of a quaternion by the names of its slots (qx, rot.w, …)."""
    last = [name.lower()[-1:] for name in names]
    return {"wxyz": "quat_wxyz", "xyzw": "quat_xyzw"}.get("".join(last))
