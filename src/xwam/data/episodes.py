"""What an episode is: one recorded run in memory, and what every data set answers.

A data set of any format is an ``Episodes``: clips, statistics and the cache know only this.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from xwam.records import Camera
from xwam.robot.layout import Layout
from xwam.strict_json import suggest

Frames = UInt8[np.ndarray, "T H W 3"]
DepthFrames = Float32[np.ndarray, "T H W"]


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One recorded run. ``state[i]``, ``video[...][i]`` and ``depth[...][i]`` are seen just before ``action[i]``."""

    instruction: str
    task: str
    seed: int
    success: bool  # False: a failure, or wandering; it teaches the world and not the actions
    state: Float[np.ndarray, "N Ds"]
    action: Float[np.ndarray, "_N Da"]  # what training should learn (the clean expert)
    video: Mapping[str, UInt8[np.ndarray, "_N _H _W 3"]]  # cameras may differ in size
    depth: Mapping[str, Float32[np.ndarray, "_N _H _W"]] = field(default_factory=dict)  # metres, 0 where unknown
    executed_action: Float[np.ndarray, "N Da"] | None = None  # what the robot really did; None: ``action``
    demonstrated: Bool[np.ndarray, " _N"] | None = None  # actions worth repeating; None: all of a success, else none


class EpisodeInfo(NamedTuple):
    """All of an episode but its images."""

    length: int
    instruction: str
    task: str
    state: Float[np.ndarray, "N Ds"]
    action: Float[np.ndarray, "_N Da"]  # as many as states, or fewer: none may follow the last frames
    executed: Float[np.ndarray, "_N Da"] | None = None  # what the robot really did; None: these actions


@runtime_checkable
class Episodes(Protocol):
    """A readable data set. Episodes are numbered from 0."""

    layout: Layout
    cameras: tuple[Camera, ...]
    action_hz: float

    @property
    def num_episodes(self) -> int:
        """Episodes in the set."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when anything that is read changes."""
        ...

    def length(self, episode: int) -> int:
        """Number of steps (frames)."""
        ...

    def info(self, episode: int) -> EpisodeInfo:
        """Length, words, states and actions."""
        ...

    def demonstrated(self, episode: int) -> Bool[np.ndarray, " N"] | None:
        """Which actions are worth repeating, None for all; of the others only what follows from them is learned."""
        ...

    def frames(self, episode: int, camera: str, indices: Int[np.ndarray, " T"]) -> Frames | None:
        """RGB images at these steps, exactly; None when the episode lacks this camera."""
        ...

    def depth(self, episode: int, camera: str, indices: Int[np.ndarray, " T"]) -> DepthFrames | None:
        """Metres at these steps, 0 where unknown; None when this camera has no depth."""
        ...


def camera_named(cameras: tuple[Camera, ...], name: str) -> Camera:
    """The camera of that name. Raises ValueError with the nearest names."""
    for camera in cameras:
        if camera.name == name:
            return camera
    raise ValueError(f"camera={name!r} is not in this data set: {suggest(name, [c.name for c in cameras])}")


def check_episode(episode: Episode, layout: Layout, cameras: tuple[Camera, ...]) -> None:
    """Refuse an episode that does not fit the data set: lengths, widths, cameras, sizes, NaN."""
    layout.check_state(episode.state)
    layout.check_quaternions(episode.state)
    layout.check_action(episode.action)
    if not episode.instruction.strip():
        raise ValueError(f"instruction={episode.instruction!r}: must say in words what the robot should do.")
    length = len(episode.state)
    arrays = {"action": episode.action}
    if episode.executed_action is not None:
        layout.check_action(episode.executed_action)
        arrays["executed_action"] = episode.executed_action
    if episode.demonstrated is not None:
        arrays["demonstrated"] = episode.demonstrated
        if episode.demonstrated.any() and not episode.success:
            raise ValueError(
                "demonstrated has actions worth repeating, success=False: a failure has none; correct one."
            )
    if length == 0:
        raise ValueError("state has 0 steps: an episode needs at least one; leave empty episodes out.")
    for camera in cameras:
        if camera.name not in episode.video:
            raise ValueError(f"camera={camera.name!r} is missing: {suggest(camera.name, episode.video)}")
    for kind, images in (("video", episode.video), ("depth", episode.depth)):
        for name, frames in images.items():
            camera = camera_named(cameras, name)
            arrays[f"{kind}[{name!r}]"] = frames
            if frames.shape[1:3] != (camera.height, camera.width):
                raise ValueError(
                    f"{kind}[{name!r}] has shape {frames.shape}: the camera is {camera.height} high and "
                    f"{camera.width} wide; resize the images or declare the camera with their size."
                )
            if kind == "video" and (frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3):
                raise ValueError(
                    f"video[{name!r}] has dtype={frames.dtype}, shape={frames.shape}: must be uint8 N H W 3 (RGB)."
                )
            if kind == "depth" and not (np.isfinite(frames).all() and frames.min() >= 0):
                raise ValueError(f"depth[{name!r}] has NaN, infinite or negative values: metres, 0 where unknown.")
    for name, values in arrays.items():
        if len(values) != length:
            raise ValueError(f"{name} has {len(values)} steps, state has {length}: they must be equal.")
