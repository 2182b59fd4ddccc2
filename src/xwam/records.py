"""What crosses a door: plain records in physical units, unbatched, numpy.

Images are uint8 RGB, lengths metres, angles radians, times seconds. Rotations are unit quaternions
``wxyz`` with ``w >= 0``. Poses are 4x4 matrices named ``target_from_source``, so that products cancel:
``base_from_camera = base_from_hand @ hand_from_camera``. Cameras look along +z, x right, y down
(OpenCV). Pixel ``(u, v)`` covers ``[u, u+1) x [v, v+1)``: its centre is at ``(u + 0.5, v + 0.5)``.

Letters (docs/glossary.md): ``V`` views, ``T`` frames, ``H W`` pixels, ``Ta Da`` action steps and width,
``Ts Ds`` state steps and width.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8

Image = UInt8[np.ndarray, "H W 3"]
Pose = Float[np.ndarray, "4 4"]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One calibrated camera. A static camera knows ``base_from_camera``, a wrist camera ``hand_from_camera``.

    Neither pose given means: images only, no point cloud from this view.
    """

    name: str
    width: int
    height: int
    intrinsics: Float[np.ndarray, "3 3"] | None = None  # pixels of a width x height image
    base_from_camera: Pose | None = None
    hand_from_camera: Pose | None = None
    hand: str = "left"  # the arm that carries a wrist camera
    on_hand: bool = False  # it rides on a hand though nobody knows where (hand_from_camera says so by itself)
    near_m: float = 0.1  # metres; what is nearer is coded as near_m, what is farther as unknown; neither gives points
    far_m: float = 10.0
    has_depth: bool = True  # False: nothing ever taught its depth, so what is imagined of it counts as unknown
    depth_at: float = 0.5  # where in a pixel its depth was taken, on average: 0.5 its centre, 0 its first corner

    def __post_init__(self) -> None:
        if self.base_from_camera is not None and self.hand_from_camera is not None:
            raise ValueError(
                f"camera name={self.name!r} has base_from_camera and hand_from_camera: give one, "
                "base_from_camera for a static camera, hand_from_camera for a wrist camera."
            )
        if self.width < 1 or self.height < 1:
            raise ValueError(f"camera name={self.name!r} width={self.width}, height={self.height}: must be 1 or more.")
        for name in ("intrinsics", "base_from_camera", "hand_from_camera"):
            if (value := vars(self)[name]) is not None:
                _check_matrix(value, f"camera name={self.name!r} {name}", is_lens=name == "intrinsics")
        if not 0 < self.near_m < self.far_m:
            raise ValueError(
                f"camera name={self.name!r} near_m={self.near_m}, far_m={self.far_m}: need 0 < near_m < far_m."
            )
        if not np.isfinite(self.depth_at):
            raise ValueError(f"camera name={self.name!r} depth_at={self.depth_at}: a place in a pixel, such as 0.5.")

    @property
    def is_static(self) -> bool:
        """True for a camera that stands still, as far as is known."""
        return self.hand_from_camera is None and not self.on_hand

    @property
    def is_calibrated(self) -> bool:
        """True when the camera's pixels can be placed in the robot's base frame."""
        return self.intrinsics is not None and (self.base_from_camera is not None or self.hand_from_camera is not None)

    def resized(self, width: int, height: int) -> "Camera":
        """The same camera after its image was resized (pixels), and its depth by ``images.resize_nearest``."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        intrinsics = None if self.intrinsics is None else scale @ self.intrinsics
        places = [_nearest_at(self.depth_at, *sizes) for sizes in ((self.width, width), (self.height, height))]
        return replace(self, width=width, height=height, intrinsics=intrinsics, depth_at=sum(places) / 2)

    def cropped(self, left: int | float, top: int | float, width: int, height: int) -> "Camera":
        """The same camera after a window of its image was cut out (pixels)."""
        offset = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
        intrinsics = None if self.intrinsics is None else offset @ self.intrinsics
        return replace(self, width=width, height=height, intrinsics=intrinsics)


def _nearest_at(depth_at: float, size: int, wanted: int) -> float:
    """Where in a new pixel the depth lies that was taken for it, on average."""
    pixels = size // math.gcd(size, wanted)
    aside = 0.0 if pixels % 2 else 0.5 / pixels  # an even number has none in the middle: the later one is taken
    return 0.5 + aside + (depth_at - 0.5) * wanted / size


def is_rotation(matrix: np.ndarray) -> bool:
    """True for a 3x3 rotation to two digits: no mirror, no scale."""
    is_square = matrix.shape == (3, 3) and bool(np.isfinite(matrix).all())
    return is_square and bool(np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-2) and np.linalg.det(matrix) > 0)


def _check_matrix(value: np.ndarray, what: str, *, is_lens: bool) -> None:
    size = 3 if is_lens else 4
    if value.shape != (size, size) or not np.isfinite(value).all():
        raise ValueError(f"{what} has shape {value.shape}: must be {size} x {size} finite numbers.")
    is_fine = (
        bool((value.diagonal() >= 1).all() and np.linalg.det(value) >= 1) if is_lens else is_rotation(value[:3, :3])
    )
    if not is_fine or not np.allclose(value[-1], np.eye(size)[-1], atol=1e-6):
        wanted = "positive focal lengths of a pixel or more" if is_lens else "a rotation (and metres)"
        raise ValueError(f"{what}={value.tolist()}: needs {wanted}, last row {'0 ' * (size - 1)}1.")


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the robot sees now: one image per camera, its state, and what it is asked to do."""

    images: Mapping[str, Image]
    state: Float[np.ndarray, " Ds"]  # as the Layout says
    instruction: str
    cameras: Mapping[str, Camera] = field(default_factory=dict)  # calibration, where known
    depth: Mapping[str, Float[np.ndarray, "H W"]] = field(default_factory=dict)  # metres; the policy ignores it


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A training sample: ``T`` frames of every view, the states at them and the actions between them.

    Masks are True where the value is real; padded steps (after the episode's end) never train.
    """

    video: UInt8[np.ndarray, "V T H W 3"]
    depth: Float[np.ndarray, "V T H W"] | None  # metres, 0 where unknown
    state: Float[np.ndarray, "Ts Ds"]  # in the layout's units, one row per frame
    action: Float[np.ndarray, "Ta Da"]  # in the layout's units; row k is played k / action_hz s after the first frame
    video_mask: Bool[np.ndarray, "V T"]
    depth_mask: Bool[np.ndarray, "V T"]
    state_mask: Bool[np.ndarray, " Ts"]
    action_mask: Bool[np.ndarray, " Ta"]
    instruction: str
    cameras: tuple[Camera, ...]  # one per view, in the order of ``video``
    executed_action: Float[np.ndarray, "Ta Da"] | None = None  # what the robot really did; None: ``action``

    @property
    def executed(self) -> Float[np.ndarray, "Ta Da"]:
        """The actions that led to these frames."""
        return self.action if self.executed_action is None else self.executed_action


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model answers: actions at once; with the world, video, depth and states as well.

    ``video[:, 0]`` and ``state[0]`` are the observation itself. ``video`` and ``depth`` are None in the first
    answer (actions only).
    """

    action: Float[np.ndarray, "Ta Da"]  # in the layout's units; row k plays k / action_hz s after the observation
    state: Float[np.ndarray, "Ts Ds"]  # in the layout's units, one row per frame
    video: UInt8[np.ndarray, "V T H W 3"] | None
    depth: Float[np.ndarray, "V T H W"] | None  # metres along the camera's axis, 0 where unknown
    cameras: tuple[Camera, ...]
    instruction: str
    frame_hz: float
    action_hz: float
    seed: int
    seconds: Mapping[str, float]  # time spent in each stage: encode, text, actions, world, decode

    def only_views(self, views: Sequence[int]) -> "Prediction":
        """The same answer with the pictures of these cameras alone, by number."""
        if len(views) == len(self.cameras):
            return self
        video, depth = (None if pictures is None else pictures[list(views)] for pictures in (self.video, self.depth))
        return replace(self, video=video, depth=depth, cameras=tuple(self.cameras[view] for view in views))

    def without_views(self, names: Collection[str]) -> "Prediction":
        """The same answer without the pictures of these cameras: those that the robot lacks (``policy.absent``)."""
        return self.only_views([view for view, camera in enumerate(self.cameras) if camera.name not in names])

    def first_frames(self, count: int) -> "Prediction":
        """The beginning: ``count`` frames and states, and all actions."""
        video, depth = (None if pictures is None else pictures[:, :count] for pictures in (self.video, self.depth))
        return replace(self, state=self.state[:count], video=video, depth=depth)
