"""What each slot of a state or action vector means: name, unit, frame, and how it is normalised.

A vector is a row of parts, left arm before right. A robot that lacks a part keeps its slots, at zero,
with ``is_used=False``: they never enter a loss and never move.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from xwam.files import write_text
from xwam.robot.rotations import positive_w
from xwam.strict_json import from_json, suggest, to_json

Kind = Literal[
    "position",  # metres, xyz
    "quat_wxyz",  # unit quaternion, w >= 0
    "rotation_matrix",
    "joint_position",  # radians
    "gripper",  # opening
    "delta_position",  # metres to move in one action step
    "delta_rotation",  # rotation vector in one action step, R <- exp(delta) R
    "joint_command",  # where to go, radians
    "delta_joint",  # radians to move in one action step
    "gripper_command",  # where to go, or how hard to pull, -1..1
    "delta_gripper",  # change of the opening in one action step
]
GRIPPER_ACTIONS: tuple[Kind, ...] = ("gripper_command", "delta_gripper")
JOINT_ACTIONS: tuple[Kind, ...] = ("joint_command", "delta_joint")
Scaling = Literal["quantile", "symmetric", "identity"]
MEANING = ("name", "kind", "size", "unit", "frame", "is_used")  # of a part; its scaling is the model's own affair
QUATERNION_SLACK = 0.1


@dataclass(frozen=True, kw_only=True)
class Part:
    """Neighbouring slots with one meaning.

    ``scaling``: ``quantile`` maps [q01, q99] to [-1, 1]; ``symmetric`` divides by max(|q01|, |q99|), so zero stays
    zero; ``identity`` leaves values alone. ``sign`` = -1 flips the part on the model's side only.
    """

    name: str
    kind: Kind
    size: int
    unit: str
    frame: str
    scaling: Scaling
    is_used: bool = True
    sign: int = 1


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The parts of a robot's state and action vectors, in order."""

    name: str
    state: tuple[Part, ...]
    action: tuple[Part, ...]

    @property
    def state_width(self) -> int:
        """``Ds``."""
        return sum(part.size for part in self.state)

    @property
    def action_width(self) -> int:
        """``Da``."""
        return sum(part.size for part in self.action)

    @property
    def state_mask(self) -> Bool[np.ndarray, " Ds"]:
        """True for slots this robot has."""
        return np.repeat([p.is_used for p in self.state], [p.size for p in self.state])

    @property
    def action_mask(self) -> Bool[np.ndarray, " Da"]:
        """True for slots this robot has."""
        return np.repeat([p.is_used for p in self.action], [p.size for p in self.action])

    @property
    def quaternions(self) -> list[tuple[Part, slice]]:
        """The rotations in the state of this robot, and where they stand."""
        return used_slices(self.state, "quat_wxyz")

    @property
    def hands(self) -> list[tuple[str, slice]]:
        """The arms of this robot by name, and where the state has their hands' positions; none where it has joints."""
        return [(part.name.removesuffix("_position"), where) for part, where in used_slices(self.state, "position")]

    def state_slice(self, name: str) -> slice:
        """Where a part of the state stands."""
        return _slice(self.state, name)

    def action_slice(self, name: str) -> slice:
        """Where a part of the action stands."""
        return _slice(self.action, name)

    def check_state(self, state: Float[np.ndarray, "*steps width"]) -> None:
        """Refuse a state of the wrong width or with NaN or infinity in it."""
        _check(state, self.state_width, "state", self.name)

    def check_quaternions(self, state: Float[np.ndarray, "*steps width"]) -> None:
        """Refuse a state whose rotations are not unit quaternions (10 % off is still called rounding)."""
        for part, where in self.quaternions:
            norms = np.linalg.norm(state[..., where], axis=-1)
            if (wrong := np.abs(norms - 1) > QUATERNION_SLACK).any():
                norm = norms[wrong].flat[0]
                raise ValueError(f"state {part.name} has norm={norm:.3g}: must be a unit quaternion wxyz.")

    def with_positive_quaternions(self, state: Float[np.ndarray, "*steps width"]) -> Float[np.ndarray, "*steps width"]:
        """The same state, every rotation written with ``w >= 0`` (-q is the same rotation)."""
        state = np.array(state)
        for _, where in self.quaternions:
            state[..., where] = positive_w(state[..., where])
        return state

    def check_action(self, action: Float[np.ndarray, "*steps width"]) -> None:
        """Refuse an action of the wrong width or with NaN or infinity in it."""
        _check(action, self.action_width, "action", self.name)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_text(path, to_json(self))


def load_layout(path: Path) -> Layout:
    """Read what ``Layout.save`` wrote; raises ValueError on unknown keys."""
    return from_json(Layout, path.read_text())


def two_arm_layout(
    name: str,
    *,
    frame: str = "base",
    single_arm: bool = False,
    raw_gripper: bool = False,
    delta_gripper: bool = False,
) -> Layout:
    """The layout of the published model: per arm pose and gripper, deltas as actions; left arm first.

    ``single_arm`` leaves the right arm unused. ``raw_gripper``: actions are the controller's own commands in [-1, 1]
    (RoboCasa): no metres and radians, and the gripper has the opposite sign and is passed on unscaled.
    ``delta_gripper``: the gripper action is the change of the opening, as in the published poses (RoboTwin); otherwise
    it is a command.
    """
    units = ("1", "1") if raw_gripper else ("m", "rad")
    gripper: Kind = "delta_gripper" if delta_gripper else "gripper_command"
    state: list[Part] = []
    action: list[Part] = []
    for arm in ("left", "right"):
        is_used = arm == "left" or not single_arm

        def part(what: str, kind: Kind, size: int, unit: str, scaling: Scaling, sign: int = 1) -> Part:
            return Part(
                name=f"{arm}_{what}",  # noqa: B023 (called at once)
                kind=kind,
                size=size,
                unit=unit,
                frame=frame,
                scaling=scaling,
                is_used=is_used,  # noqa: B023
                sign=sign,
            )

        state += [
            part("position", "position", 3, "m", "quantile"),
            part("rotation", "quat_wxyz", 4, "1", "identity"),
            part("gripper", "gripper", 1, "1", "quantile"),
        ]
        action += [
            part("position", "delta_position", 3, units[0], "symmetric"),
            part("rotation", "delta_rotation", 3, units[1], "symmetric"),
            part("gripper", gripper, 1, "1", *(("identity", -1) if raw_gripper else ("symmetric", 1))),
        ]
    return Layout(name=name, state=tuple(state), action=tuple(action))


def differences(one: Layout, other: Layout) -> list[str]:
    """In what two layouts do not mean the same, in words; their names and how they are normalised do not count.

    Of a part that neither robot has, only name and size are compared.
    """
    found = []
    for which in ("state", "action"):
        mine, theirs = getattr(one, which), getattr(other, which)
        if len(mine) != len(theirs):
            found.append(f"{len(mine)} parts of {which}, not {len(theirs)}")
            continue
        for part, twin in zip(mine, theirs, strict=True):
            keys = MEANING if part.is_used or twin.is_used else ("name", "size")
            found += [
                f"{which} {part.name}: {key}={getattr(part, key)!r}, not {getattr(twin, key)!r}"
                for key in keys
                if getattr(part, key) != getattr(twin, key)
            ]
    return found


def same_rate(one_hz: float, other_hz: float) -> bool:
    """Whether two rates are the same; clocks are a little off."""
    return abs(one_hz - other_hz) <= 0.01 * other_hz


def layout_slices(parts: tuple[Part, ...]) -> list[tuple[Part, slice]]:
    """Every part with the slots where it stands."""
    ends = np.cumsum([0, *(part.size for part in parts)]).tolist()
    return [(part, slice(start, stop)) for part, start, stop in zip(parts, ends[:-1], ends[1:], strict=True)]


def used_slices(parts: tuple[Part, ...], kind: Kind) -> list[tuple[Part, slice]]:
    """Every part of a kind that the robot has, with the slots where it stands; the left arm's first."""
    return [(part, where) for part, where in layout_slices(parts) if part.kind == kind and part.is_used]


def _slice(parts: tuple[Part, ...], name: str) -> slice:
    for part, where in layout_slices(parts):
        if part.name == name:
            return where
    raise ValueError(f"part={name!r} is not in this layout: {suggest(name, [p.name for p in parts])}")


def _check(values: np.ndarray, width: int, what: str, layout: str) -> None:
    if values.shape[-1] != width:
        raise ValueError(f"{what} has shape {values.shape}: layout {layout!r} needs {width} slots in the last axis.")
    if not np.isfinite(values).all():
        bad = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ValueError(f"{what} is not finite at index {bad}: every slot must be a number; check the sensor.")
