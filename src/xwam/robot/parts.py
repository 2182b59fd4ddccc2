"""How one part of a robot's numbers, and one camera's pictures, are written in somebody's data set."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Shaped, UInt8

from xwam.robot.conventions import ANGLES, LENGTHS, ROTATION_SIZES, UNITS, WITH_ANGLES, check_form
from xwam.strict_json import suggest

What = Literal["position", "rotation", "joints", "gripper"]
Reference = Literal["absolute", "delta", "hand_delta"]
ChannelOrder = Literal["rgb", "bgr"]
DepthUnit = Literal["m", "mm"]
Rows = tuple[tuple[float, ...], ...]
POSE: tuple[What, ...] = ("position", "rotation")
# the first is meant where none is written
ALLOWED_UNITS = {"position": LENGTHS, "rotation": ANGLES, "joints": (*ANGLES, *LENGTHS, "1"), "gripper": ("1",)}


@dataclass(frozen=True, kw_only=True)
class PartSource:
    """Neighbouring slots of a column with one meaning. ``key=None``: the robot lacks it; its slots stay empty."""

    what: What
    key: str | None
    arm: str = "left"
    start: int = 0  # the first slot in the column
    size: int | None = None  # number of joints
    form: str = "quat_wxyz"  # how a rotation is written
    unit: str | None = None  # None: m, rad
    scale: float = 1.0  # what a written 1 means in that unit, for controllers that take commands in [-1, 1]
    reference: Reference = "absolute"
    closed: float = 0.0  # what the gripper says when it is closed
    open: float = 1.0
    frame: str = "base"

    def __post_init__(self) -> None:
        where = f"part {self.name!r}"
        allowed = ALLOWED_UNITS[self.what]
        if self.unit is not None and self.unit not in allowed:
            raise ValueError(f"{where} unit={self.unit!r}: {suggest(self.unit, allowed)}")
        check_form(self.form)
        if self.what == "rotation" and self.scale != 1 and self.form not in WITH_ANGLES:
            raise ValueError(f"{where} scale={self.scale}, form={self.form!r}: only angles can be scaled.")
        if (self.what == "joints") != (self.size is not None):
            raise ValueError(f"{where} size={self.size}: joints need their number, other parts must not give one.")
        if self.reference == "hand_delta" and self.what not in POSE:
            raise ValueError(f"{where} reference='hand_delta': only of positions and rotations.")
        if self.closed == self.open or self.scale == 0 or self.start < 0:
            raise ValueError(
                f"{where} closed={self.closed}, open={self.open}, scale={self.scale}, start={self.start}: closed and "
                "open must differ, scale must not be 0, start must not be negative."
            )

    @property
    def name(self) -> str:
        """The part's name in the layout."""
        return f"{self.arm}_{self.what}"

    @property
    def stop(self) -> int:
        """One past the last slot in the column."""
        return self.start + self.num_slots(rotation=ROTATION_SIZES[self.form])

    def num_slots(self, *, rotation: int) -> int:
        """How many numbers it is made of, when a rotation is written with so many."""
        return {"position": 3, "rotation": rotation, "gripper": 1, "joints": self.size or 0}[self.what]

    @property
    def written_unit(self) -> str:
        """The unit in which it is written."""
        return self.unit or ALLOWED_UNITS[self.what][0]

    @property
    def layout_unit(self) -> str:
        """The unit that it has in the layout: m, rad or 1."""
        return "m" if self.written_unit in LENGTHS else "rad" if self.written_unit in ANGLES else "1"

    @property
    def factor(self) -> float:
        """Written numbers times this are metres or radians (rotations: the scale alone)."""
        return self.scale * (1.0 if self.what == "rotation" else UNITS[self.written_unit])

    @property
    def starts_from(self) -> str | None:
        """The part of the state beside which an action part means something; None: it needs none.

        A pose as target becomes a way from the pose at its beginning; the hand's axes turn with the hand.
        """
        if self.reference == "hand_delta":
            return f"{self.arm}_rotation"
        return self.name if self.reference == "absolute" and self.what in POSE else None


@dataclass(frozen=True, kw_only=True)
class CameraSource:
    """A camera: its name here, its feature in the data set, its calibration (pixels of the stored images)."""

    name: str
    key: str
    depth_key: str | None = None
    upside_down: bool = False  # stored images are turned by half a turn; the calibration is that of the turned ones
    mirrored: bool = False  # what is left stands right; together with upside_down: only the rows are in reverse order
    channel_order: ChannelOrder = "rgb"  # "bgr": red and blue changed places, as in a JPEG that OpenCV wrote from RGB
    depth_unit: DepthUnit = "m"  # of depth that is stored as numbers (HDF5); a depth video says it itself
    may_be_missing: bool = False  # some episodes have no video of it
    intrinsics: Rows | None = None  # 3 x 3
    base_from_camera: Rows | None = None  # 4 x 4, in metres
    hand_from_camera: Rows | None = None
    hand: str | None = None  # the arm that carries it; None: left, where the state has one hand alone (robot_json.py)
    on_hand: bool = False  # it rides on a hand, though hand_from_camera is not known
    near_m: float = 0.1
    far_m: float = 10.0

    def __post_init__(self) -> None:
        for name, rows, size in (
            ("intrinsics", self.intrinsics, 3),
            ("base_from_camera", self.base_from_camera, 4),
            ("hand_from_camera", self.hand_from_camera, 4),
        ):
            if rows is not None and [len(row) for row in rows] != [size] * size:
                raise ValueError(f"camera {self.name!r} {name}: must be {size} rows of {size} numbers.")

    def upright(self, pictures: UInt8[np.ndarray, "*any H W 3"]) -> UInt8[np.ndarray, "*any H W 3"]:
        """Pictures (RGB, from the robot itself say) as the camera's calibration means them."""
        return np.ascontiguousarray(pictures[..., *self._order, :])

    def seen(self, stored: UInt8[np.ndarray, "*any H W 3"]) -> UInt8[np.ndarray, "*any H W 3"]:
        """Pictures of the data set: upright, RGB."""
        return self.upright(stored if self.channel_order == "rgb" else stored[..., ::-1])

    def seen_depth(self, depth: Shaped[np.ndarray, "*any H W"]) -> Shaped[np.ndarray, "*any H W"]:
        """Depth images of the data set (metres, or a video's codes), upright."""
        return np.ascontiguousarray(depth[..., *self._order])

    @property
    def orientation(self) -> str:
        """How the pictures are stored, in words."""
        turned = [name for name in ("upside_down", "mirrored") if getattr(self, name)]
        return " and ".join(turned) or "upright"

    @property
    def _order(self) -> tuple[slice, slice]:
        """The order in which rows and columns are stored."""
        forwards, backwards = slice(None), slice(None, None, -1)
        return (
            backwards if self.upside_down else forwards,
            backwards if self.upside_down != self.mirrored else forwards,
        )
