"""Cut episodes into training clips: frames ``s, s + k, s + 2k, ..`` and the actions ``s, s + 1, ..`` between them.

A clip may start at any step. What lies after the episode's end is filled (last frame and state again, zero action) and
masked: it never trains. Actions that are no demonstration are masked as well, but not filled: what follows from them
is learned. No clip begins after an episode's last demonstrated action.
"""

import hashlib
import zlib
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from xwam.config import ClipConfig
from xwam.data.episodes import Episodes, camera_named
from xwam.images import GREY, resize, resize_nearest, to_bytes
from xwam.records import Camera, Clip
from xwam.robot.layout import same_rate

Split = Literal["train", "validation", "all"]
VALIDATION_SHARE = 0.1  # of the episodes are held out


def split_episodes(num_episodes: int, validation_share: float = VALIDATION_SHARE) -> tuple[list[int], list[int]]:
    """Training and validation episodes: whole ones; one in every ten (or whatever the share says), drawn.

    Tasks recorded one after the other are held out evenly, and episodes that come later change nothing. At least one is
    held out (the last one, where so few were drawn), unless there is only one or the share is 0.
    """
    if not 0 <= validation_share <= 0.5:
        raise ValueError(f"validation_share={validation_share}: must be in 0..0.5.")
    if validation_share == 0 or num_episodes < 2:
        return list(range(num_episodes)), []
    block = round(1 / validation_share)
    drawn = {first + _drawn(first, block) for first in range(0, num_episodes, block)}
    held_out = sorted(number for number in drawn if number < num_episodes) or [num_episodes - 1]
    return sorted(set(range(num_episodes)) - set(held_out)), held_out


def _drawn(first: int, block: int) -> int:
    """A number below ``block`` for the block that begins at this episode: the same for ever."""
    return int.from_bytes(hashlib.sha256(f"episode {first}".encode()).digest()[:8]) % block


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` numbers below ``count``, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _demonstration_end(episodes: Episodes, number: int) -> int:
    """The step after an episode's last action worth repeating; 0 when there is none."""
    demonstrated = episodes.demonstrated(number)
    if demonstrated is None:
        return episodes.length(number)
    return int(np.flatnonzero(demonstrated)[-1]) + 1 if demonstrated.any() else 0


class Clips:
    """All clips of some episodes: ``clips[i]`` reads one, uncropped, at the size of the settings."""

    def __init__(
        self,
        episodes: Episodes,
        config: ClipConfig,
        view_names: Sequence[str],
        *,
        split: Split = "train",
        validation_share: float = VALIDATION_SHARE,
        padded: bool = True,
        every: int = 1,
        absent: Collection[str] = (),
        demonstrations_only: bool = False,
    ) -> None:
        """``padded=False``: only clips that end in the episode. ``every``: a clip begins at each such step.

        ``demonstrations_only``: none of failures and wandering, whose actions nobody should follow.

        ``absent``: views that this data set does not have; grey pictures that never train stand for them, as for a
        camera that an episode lacks. Raises ValueError when rates or cameras do not fit.
        """
        if not same_rate(episodes.action_hz, config.action_hz):
            raise ValueError(
                f"action_hz={episodes.action_hz:g} of the data set: the settings say {config.action_hz:g}; "
                "actions of another rate mean something else. Change clip.action_hz or resample the data set."
            )
        self.episodes, self.config, self.view_names = episodes, config, tuple(view_names)
        nowhere = [Camera(name=name, width=config.width_px, height=config.height_px) for name in absent]
        self.absent = frozenset(absent)
        self.cameras = tuple(
            camera_named((*episodes.cameras, *nowhere), name).resized(config.width_px, config.height_px)
            for name in view_names
        )
        train, validation = split_episodes(episodes.num_episodes, validation_share)
        numbers = {"train": train, "validation": validation, "all": sorted(train + validation)}[split]
        ends = {number: _demonstration_end(episodes, number) for number in numbers}
        self.numbers = [number for number in numbers if ends[number] or not demonstrations_only]
        self.num_demonstrations = sum(end > 0 for end in ends.values())
        self.demonstrations_hash = zlib.crc32(repr(ends).encode())  # changes with what is to be repeated
        span = 0 if padded else config.action_horizon
        lengths = {number: episodes.length(number) for number in self.numbers}
        starts = [max(0, min(length - span, ends[number] or length)) for number, length in lengths.items()]
        self.every = every
        self._ends = np.cumsum([-(-count // every) for count in starts], dtype=np.int64)

    @property
    def seen_cameras(self) -> tuple[Camera, ...]:
        """The cameras of the views that this data set has."""
        return tuple(camera for camera in self.cameras if camera.name not in self.absent)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Clip:
        return self.at(*self.locate(index))

    def locate(self, index: int) -> tuple[int, int]:
        """The episode and the first step of a clip."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} clips.")
        place = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[place - 1]) if place else 0
        return self.numbers[place], (index - before) * self.every

    @property
    def of_episodes(self) -> list[range]:
        """The clips of every episode, by number; without those that begin so late that no other frame follows."""
        step = self.config.actions_per_frame
        followed = [-(-max(self.episodes.length(number) - step, 0) // self.every) for number in self.numbers]
        ends = [0, *self._ends.tolist()]
        return [range(a, min(b, a + most)) for a, b, most in zip(ends[:-1], ends[1:], followed, strict=True)]

    def at(self, episode: int, start: int) -> Clip:
        """The clip that begins at this step of this episode."""
        info, config = self.episodes.info(episode), self.config
        demonstrated = self.episodes.demonstrated(episode)
        frames, is_real = self._steps(start, info.length)
        actions = start + np.arange(config.action_horizon)
        executed = info.action if info.executed is None else info.executed
        rows, played = (np.concatenate([part, self._after(part)]) for part in (info.action, executed))
        acts = actions < len(info.action)
        depth, has_depth = self._depth(episode, frames)
        video, is_seen = self._views(episode, start)
        video_mask = is_real & is_seen[:, None]
        return Clip(
            video=to_bytes(video),
            depth=depth,
            state=info.state[frames],
            action=rows[np.minimum(actions, len(info.action))],
            video_mask=video_mask,
            depth_mask=video_mask & has_depth[:, None],
            state_mask=is_real,
            action_mask=acts if demonstrated is None else acts & demonstrated[np.minimum(actions, info.length - 1)],
            instruction=info.instruction,
            cameras=self.cameras,
            executed_action=played[np.minimum(actions, len(executed))] if info.executed is not None else None,
        )

    @property
    def knows_executed(self) -> bool:
        """True when the data set says what the robot really did."""
        return bool(self.numbers) and self.episodes.info(self.numbers[0]).executed is not None

    @property
    def stays(self) -> Bool[np.ndarray, " Da"]:
        """Slots that say where to go: after an episode's end they stay, as changes are 0. Neither is ever a target."""
        parts = self.episodes.layout.action
        return np.repeat([part.kind == "joint_command" for part in parts], [part.size for part in parts])

    def _after(self, action: Float[np.ndarray, "N Da"]) -> Float[np.ndarray, "1 Da"]:
        last = action[-1:] if len(action) else np.zeros_like(action, shape=(1, action.shape[1]))
        return np.where(self.stays, last, 0).astype(action.dtype)

    def images(self, episode: int, start: int) -> Float32[np.ndarray, "V T H W 3"]:
        """The clip's images in 0..255, resized and not yet rounded."""
        return self._views(episode, start)[0]

    def _views(self, episode: int, start: int) -> tuple[Float32[np.ndarray, "V T H W 3"], Bool[np.ndarray, " V"]]:
        """Images of every view (grey where there is none), and which views are real."""
        frames, _ = self._steps(start, self.episodes.length(episode))
        size, antialias = (self.config.height_px, self.config.width_px), self.config.antialias
        views = np.full((len(self.view_names), len(frames), *size, 3), GREY, np.float32)
        is_seen = np.zeros(len(self.view_names), dtype=bool)
        for view, name in enumerate(self.view_names):
            images = None if name in self.absent else self.episodes.frames(episode, name, frames)
            if images is not None:
                views[view], is_seen[view] = resize(images, *size, antialias=antialias), True
        return views, is_seen

    def _steps(self, start: int, length: int) -> tuple[Int[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
        """The step of each frame (the last one again after the end), and which are real."""
        if not 0 <= start < length:
            raise ValueError(f"start={start}: the episode has steps 0..{length - 1}.")
        steps = start + np.arange(self.config.num_frames) * self.config.actions_per_frame
        return np.minimum(steps, length - 1), steps < length

    def _depth(
        self, episode: int, frames: Int[np.ndarray, " T"]
    ) -> tuple[Float32[np.ndarray, "V T H W"] | None, Bool[np.ndarray, " V"]]:
        """Metres of every view (zeros for a camera without depth), and which views have depth."""
        config = self.config
        depth = np.zeros((len(self.view_names), len(frames), config.height_px, config.width_px), np.float32)
        has_depth = np.zeros(len(self.view_names), dtype=bool)
        for view, name in enumerate(self.view_names):
            metres = None if name in self.absent else self.episodes.depth(episode, name, frames)
            if metres is not None:
                has_depth[view] = True
                depth[view] = resize_nearest(metres, config.height_px, config.width_px)
        return (depth if has_depth.any() else None), has_depth
