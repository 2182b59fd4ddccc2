"""``robot.json``: all there is to say about a robot, in one file.

Which column and slots hold which part, in which unit and convention; what the cameras are called, how they are
calibrated; how fast it acts. Training reads foreign data sets through it, a checkpoint carries it, and whoever drives
the robot turns its numbers into ours and back with it (columns.py).

A part is called ``<arm>_<what>``. ``position`` and ``rotation`` of an action become what to add to the pose at its
beginning, in the base frame, whether they are written as targets (``absolute``) or as changes in the base's axes
(``delta``) or in the hand's own (``hand_delta``). ``joints`` stay what they are. A ``gripper`` is 0 closed, 1 open in a
state; in an action -1 closed, 1 open.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xwam.files import write_text
from xwam.records import Camera, is_rotation
from xwam.robot.axes import Axes
from xwam.robot.layout import Kind, Layout, Part, Scaling
from xwam.robot.parts import CameraSource, PartSource, Rows
from xwam.strict_json import load, to_json

ROBOT_FILE = "robot.json"
ADDED = {"action_ahead": 0}  # after 0.1.0, with their defaults
ADDED_TO_CAMERAS = {"mirrored": False, "channel_order": "rgb", "depth_unit": "m", "on_hand": False}
ROBOTS_FOLDER = "robots"  # of a checkpoint that learned from several


@dataclass(frozen=True, kw_only=True)
class RobotConfig:
    """One robot and how its data are written."""

    name: str
    action_hz: float
    state: tuple[PartSource, ...]
    action: tuple[PartSource, ...]
    cameras: tuple[CameraSource, ...]
    frames_per_action: int = 1  # of the data set: 30 fps and 3 give 10 actions per second
    action_ahead: int = 0  # the action that follows frame i stands in row i + action_ahead
    state_width: int = 16  # those of the model; slots after the last part stay empty
    action_width: int = 14
    instruction: str | None = None  # for data sets without words
    base_turn: Rows | None = None  # 3 x 3; turns the base's axes to those of the model (axes.py)
    hand_turn: Rows | None = None

    def __post_init__(self) -> None:
        if self.frames_per_action < 1 or self.action_hz <= 0:
            raise ValueError(
                f"action_hz={self.action_hz}, frames_per_action={self.frames_per_action}: must be positive, at least 1."
            )
        if self.action_ahead < 0:
            raise ValueError(f"action_ahead={self.action_ahead}: rows that actions stand later; 0 or more.")
        if self.instruction is not None and not self.instruction.strip():
            raise ValueError(f"instruction={self.instruction!r}: say what the robot should do, or leave it out (null).")
        if not self.keys:
            raise ValueError("state and action name no column (key): at least one part must be read from the data set.")
        if not self.cameras:
            raise ValueError("cameras=[]: at least one camera is needed; the model learns from video.")
        _check_names("camera", [camera.name for camera in self.cameras])
        for what, parts, width in (
            ("state", self.state, self.state_width),
            ("action", self.action, self.action_width),
        ):
            _check_names(f"{what} part", [part.name for part in parts])
            _check_slots(what, parts)
            needed = sum(_size(part, is_action=what == "action") for part in parts)
            if needed > width:
                raise ValueError(f"{what}_width={width}: its parts need {needed} slots; give {what}_width={needed}.")
        for name, turn in (("base_turn", self.base_turn), ("hand_turn", self.hand_turn)):
            if turn is not None and not is_rotation(np.array(turn, dtype=np.float64)):
                raise ValueError(f"{name}={turn}: must be a rotation, 3 rows of 3 numbers.")
        self._check_references()

    def _check_references(self) -> None:
        """A target and a change in the hand's axes mean something only beside the pose they start from."""
        known = {part.name for part in self.state if part.key is not None}
        for part in self.action:
            needed = part.starts_from
            if part.key is not None and needed is not None and needed not in known:
                raise ValueError(
                    f"action part {part.name!r} with reference={part.reference!r} needs the state part {needed!r}: "
                    "add it, or say reference='delta' if it is one."
                )
        for part in self.state:
            if part.reference != "absolute":
                raise ValueError(f"state part {part.name!r} reference={part.reference!r}: a state is absolute.")
        # what is not said is filled in, so that files and hashes are those of "left", as they always were
        object.__setattr__(self, "cameras", tuple(_with_hand(camera, known) for camera in self.cameras))

    @property
    def axes(self) -> Axes:
        """How the robot's frames are turned for the model."""
        turns = (np.eye(3) if turn is None else np.array(turn) for turn in (self.base_turn, self.hand_turn))
        return Axes(*turns)

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(dict.fromkeys(part.key for part in (*self.state, *self.action) if part.key is not None))

    @property
    def fps(self) -> float:
        """Frames per second of the data set."""
        return self.action_hz * self.frames_per_action

    @property
    def frame_by_frame(self) -> "RobotConfig":
        """The same robot with an action for every frame."""
        return replace(self, action_hz=self.fps, frames_per_action=1)

    @property
    def view_names(self) -> tuple[str, ...]:
        """The cameras' names."""
        return tuple(camera.name for camera in self.cameras)


def load_robot(path: Path) -> RobotConfig:
    """Read a robot.json. Raises FileNotFoundError or ValueError that names the key at fault."""
    return load(RobotConfig, path)


def save_robot(path: Path, robot: RobotConfig) -> None:
    """The inverse of load_robot."""
    write_text(path, to_json(robot))


def robot_fingerprint(robot: RobotConfig) -> str:
    """Short hash of everything in the file: two sides that agree on it agree on every number.

    Fields that were added after 0.1.0 are left out while they have their default, so that older files keep their hash.
    """
    facts = json.loads(to_json(robot))
    for part, added in ((facts, ADDED), *((camera, ADDED_TO_CAMERAS) for camera in facts["cameras"])):
        for name, nothing in added.items():
            if part[name] == nothing:
                del part[name]
    return hashlib.sha256((json.dumps(facts, indent=2) + "\n").encode()).hexdigest()[:16]


def layout_of(robot: RobotConfig) -> Layout:
    """What each slot of this robot's states and actions means."""
    state = [_part(part, is_action=False) for part in robot.state]
    action = [_part(part, is_action=True) for part in robot.action]
    for parts, width in ((state, robot.state_width), (action, robot.action_width)):
        if rest := width - sum(part.size for part in parts):
            parts.append(_empty("unused", "joint_position", rest))
    return Layout(name=robot.name, state=tuple(state), action=tuple(action))


def camera_of(robot: RobotConfig, source: CameraSource, width: int, height: int) -> Camera:
    """The camera of a data set's images, its pose in the model's axes."""
    base, hand = (np.eye(4), np.eye(4))
    base[:3, :3], hand[:3, :3] = robot.axes
    fixed, ridden = source.base_from_camera, source.hand_from_camera
    return Camera(
        name=source.name,
        width=width,
        height=height,
        intrinsics=None if source.intrinsics is None else np.array(source.intrinsics),
        base_from_camera=None if fixed is None else base @ np.array(fixed),
        hand_from_camera=None if ridden is None else hand.T @ np.array(ridden),
        hand=source.hand or "left",
        on_hand=source.on_hand,
        near_m=source.near_m,
        far_m=source.far_m,
    )


def _part(source: PartSource, *, is_action: bool) -> Part:
    kind, scaling = _kind(source, is_action)
    if source.key is None:
        return _empty(source.name, kind, _size(source, is_action=is_action))
    return Part(
        name=source.name,
        kind=kind,
        size=_size(source, is_action=is_action),
        unit="1" if kind == "quat_wxyz" else source.layout_unit,
        frame="joint" if source.what == "joints" else source.frame,
        scaling=scaling,
    )


def _kind(source: PartSource, is_action: bool) -> tuple[Kind, Scaling]:
    if not is_action:
        kinds: dict[str, tuple[Kind, Scaling]] = {
            "position": ("position", "quantile"),
            "rotation": ("quat_wxyz", "identity"),
            "joints": ("joint_position", "quantile"),
            "gripper": ("gripper", "quantile"),
        }
        return kinds[source.what]
    if source.what == "joints":
        return ("joint_command", "quantile") if source.reference == "absolute" else ("delta_joint", "symmetric")
    names: dict[str, Kind] = {
        "position": "delta_position",
        "rotation": "delta_rotation",
        "gripper": "gripper_command" if source.reference == "absolute" else "delta_gripper",
    }
    return names[source.what], "symmetric"


def _size(source: PartSource, *, is_action: bool) -> int:
    return source.num_slots(rotation=3 if is_action else 4)


def _empty(name: str, kind: Kind, size: int) -> Part:
    return Part(name=name, kind=kind, size=size, unit="1", frame="none", scaling="identity", is_used=False)


def _with_hand(camera: CameraSource, known: Collection[str]) -> CameraSource:
    """The camera with the arm that carries it, whose pose the state needs. ``known``: the parts of the state."""
    posed = [part.removesuffix("_position") for part in known if part.endswith("_position")]
    posed = sorted(arm for arm in posed if f"{arm}_rotation" in known)
    if camera.hand_from_camera is not None and camera.hand is None and len(posed) > 1:
        raise ValueError(
            f"camera {camera.name!r} hand=null: hand_from_camera is told, and the state has {len(posed)} hands; say "
            f"which one carries it: {' or '.join(map(repr, posed))}."
        )
    hand = camera.hand or "left"
    if camera.hand_from_camera is not None and hand not in posed:
        raise ValueError(f"camera {camera.name!r} rides on hand={hand!r}: the state needs its pose.")
    return replace(camera, hand=hand)


def _check_names(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} {', '.join(map(repr, twice))} stands twice: every name once.")


def _check_slots(what: str, parts: tuple[PartSource, ...]) -> None:
    taken: dict[tuple[str, int], str] = {}
    for part in parts:
        for slot in range(part.start, part.stop):
            if part.key is not None and (other := taken.setdefault((part.key, slot), part.name)) != part.name:
                raise ValueError(f"{what} parts {other!r} and {part.name!r} both read slot {slot} of {part.key!r}.")
