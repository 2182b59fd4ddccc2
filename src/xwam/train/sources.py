"""The data sets of a run: opened through their robot.json, fitted to the model, mixed by weight.

A view is known by its name: cameras of the same name share a place in the model, and a data set that lacks one shows
grey there, which never trains. Every data set keeps its own layout and statistics; a checkpoint serves the first one
and carries the others.
"""

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xwam.config import Config
from xwam.data.cache import LatentCache
from xwam.data.cache_in_memory import CacheInMemory
from xwam.data.clips import VALIDATION_SHARE, Clips, Split
from xwam.data.episodes import Episodes
from xwam.data.opening import is_published, open_data
from xwam.records import Camera
from xwam.robot.layout import same_rate
from xwam.robot.robot_json import RobotConfig, load_robot
from xwam.tensors import Batch

OWN = "own"  # in place of a robot.json: a data set that needs none, of ours or published


class Source(NamedTuple):
    """One data set of a run."""

    name: str
    episodes: Episodes
    robot: RobotConfig | None
    weight: float | None  # share of the samples, in any unit; None: as many as it has clips
    is_foreign: bool = False  # not recorded here: its cameras and rate decide, not the preset's
    is_whole: bool = False  # no episode is held out


def open_sources(
    data: Sequence[Path], robots: Sequence[str], weights: Sequence[float], *, is_whole: bool = False
) -> list[Source]:
    """Open all data sets. ``robots``: none, one for all, or one for each (``own`` for those that need none).

    ``is_whole``: of none of them an episode is held out.
    """
    if len(robots) not in (0, 1, len(data)) or len(weights) not in (0, len(data)):
        raise ValueError(
            f"{len(data)} data sets, {len(robots)} robots, {len(weights)} weights: give one robot for all or one for "
            "each, and one weight for each or none."
        )
    given = list(robots or [OWN]) * (1 if len(robots) == len(data) else len(data))
    sources = []
    for place, (path, robot) in enumerate(zip(data, given, strict=True)):
        mapping = None if robot == OWN else load_robot(Path(robot))
        weight = weights[place] if weights else None
        if weight is not None and weight <= 0:
            raise ValueError(f"weight={weight} of {path}: must be positive; leave the data set out.")
        name = path.name if [other.name for other in data].count(path.name) == 1 else f"{path.name}-{place}"
        is_foreign = mapping is not None or is_published(path)
        sources.append(Source(name, open_data(path, robot=mapping), mapping, weight, is_foreign, is_whole))
    return sources


def shares(sources: Sequence[Source], count: int) -> list[int]:
    """``count`` things, as many of each data set (at least one) as its weight says; equal parts without weights."""
    weights = [1.0 if source.weight is None else source.weight for source in sources]
    return [max(1, int(count * weight / sum(weights) + 1e-9)) for weight in weights]


@functools.lru_cache(maxsize=6)
def shuffled(size: int, *seed: int) -> Int[np.ndarray, " size"]:
    """The numbers below ``size`` in an order drawn from ``seed``. Those of the latest passes are kept."""
    return np.random.default_rng(seed).permutation(size)


def fit(config: Config, sources: Sequence[Source]) -> Config:
    """The settings for these robots: their views, widths and rate.

    With data sets of ours alone the preset's own are kept wherever every data set has them; what is not is said in a
    warning. Raises ValueError when the data sets do not go together.
    """
    first, views = sources[0].episodes, [{c.name for c in source.episodes.cameras} for source in sources]
    is_foreign = any(source.is_foreign for source in sources)
    names, action_hz = config.view_names, config.clip.action_hz
    if is_foreign or any(not set(names) <= known for known in views):
        names = tuple(dict.fromkeys(camera.name for source in sources for camera in source.episodes.cameras))
    if is_foreign or not same_rate(first.action_hz, action_hz):
        action_hz = first.action_hz
    model = replace(
        config.model,
        num_views=len(names) * (2 if config.depth_is_views else 1),
        state_width=first.layout.state_width,
        action_width=first.layout.action_width,
    )
    fitted = replace(config, view_names=names, model=model, clip=replace(config.clip, action_hz=action_hz))
    if not is_foreign and (changes := _changes(config, fitted)):
        warnings.warn(f"preset {config.name!r} is fitted to {sources[0].name}: {'; '.join(changes)}.", stacklevel=2)
    if len(names) > max(len(known) for known in views):
        warnings.warn(
            f"{len(names)} cameras by name in all data sets together ({', '.join(names)}): every clip carries so many "
            "views, grey where its robot lacks one, and costs as much. Cameras that stand alike may be named alike.",
            stacklevel=2,
        )
    for source in sources:
        check_fits(fitted, source.episodes, may_lack_views=True)
    _warn_of_ranges([camera for source in sources for camera in source.episodes.cameras])
    return fitted


def _warn_of_ranges(cameras: Sequence[Camera]) -> None:
    """One camera, one range of depth: a checkpoint keeps the first data set's and reads its pictures by it."""
    ranges: dict[str, dict[str, None]] = {}
    for camera in cameras:
        ranges.setdefault(camera.name, {})[f"{camera.near_m:g}..{camera.far_m:g} m"] = None
    for name, found in ranges.items():
        if len(found) > 1:
            warnings.warn(
                f"camera {name!r} has depth from {' and '.join(found)} in different data sets: the same picture then "
                "means several distances; give it one near_m and far_m, or several names.",
                stacklevel=3,
            )


def _changes(before: Config, after: Config) -> list[str]:
    pairs = {
        "cameras": (", ".join(before.view_names), ", ".join(after.view_names)),
        "action_hz": (before.clip.action_hz, after.clip.action_hz),
        "state_width": (before.model.state_width, after.model.state_width),
        "action_width": (before.model.action_width, after.model.action_width),
    }
    return [f"{name} {new} instead of {old}" for name, (old, new) in pairs.items() if old != new]


def has_depth(source: Source, view_names: Sequence[str]) -> bool:
    """True when one of these cameras has depth in some episode."""
    episodes, first = source.episodes, np.zeros(1, dtype=int)
    names = [camera.name for camera in episodes.cameras if camera.name in view_names]
    numbers = range(episodes.num_episodes)
    return any(episodes.depth(number, name, first) is not None for number in numbers for name in names)


def check_fits(config: Config, episodes: Episodes, *, may_lack_views: bool = False) -> None:
    """Refuse a data set that lacks a camera, or has another rate or other widths than the model."""
    layout = episodes.layout
    if not same_rate(episodes.action_hz, config.clip.action_hz):
        raise ValueError(
            f"action_hz={episodes.action_hz:g} of the data set, {config.clip.action_hz:g} of the model: actions of "
            "another rate mean something else; the data sets of one run need the same (a robot.json may skip frames; a "
            "published data set is read at its own rate only)."
        )
    known = [camera.name for camera in episodes.cameras]
    for name in () if may_lack_views else config.view_names:
        if name not in known:
            raise ValueError(
                f"camera={name!r} is not in this data set ({', '.join(known)}); preset {config.name!r} looks through "
                f"{', '.join(config.view_names)}: record it."
            )
    for what, ours, theirs in (
        ("state_width", config.model.state_width, layout.state_width),
        ("action_width", config.model.action_width, layout.action_width),
    ):
        if ours != theirs:
            raise ValueError(
                f"{what}={theirs} of the data set's layout {layout.name!r}: preset {config.name!r} has {ours}; "
                "the data sets of one run need the same widths."
            )


def clips_of(source: Source, config: Config, *, every: int = 1, split: Split = "train", padded: bool = True) -> Clips:
    """A data set's clips with all views of the model; those it lacks are grey."""
    absent = set(config.view_names) - {camera.name for camera in source.episodes.cameras}
    return Clips(
        source.episodes, config.clip, config.view_names, split=split, padded=padded, every=every,
        absent=sorted(absent), validation_share=0.0 if source.is_whole else VALIDATION_SHARE,
    )  # fmt: skip


class Mixture:
    """Cached clips of one or several data sets with their encoded prompts: the loop's TrainingData.

    One pass has as many clips as all data sets together, divided among them by their weights. The next pass goes on in
    each data set where this one stopped.
    """

    def __init__(
        self,
        names: Sequence[str],
        caches: Sequence[LatentCache | CacheInMemory],
        weights: Sequence[float | None],
        prompts: Mapping[str, Float[Tensor, "P Dt"]],
    ) -> None:
        self.caches, self.prompts, self.source_names = tuple(caches), prompts, tuple(names)
        self.empty_prompt = prompts[""]
        sizes = np.array([len(cache) for cache in caches])
        shares = np.array([size if weight is None else weight for size, weight in zip(sizes, weights, strict=True)])
        self.counts = np.maximum(1, np.rint(sizes.sum() * shares / shares.sum()).astype(int))
        self._ends = np.cumsum(self.counts)
        self.fingerprint = "+".join(cache.fingerprint for cache in caches)
        if len(caches) > 1:
            self.fingerprint += f" {self.counts.tolist()}"

    def __len__(self) -> int:
        return int(self._ends[-1])

    def sources(self, indices: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """The data set of each of these clips."""
        return np.searchsorted(self._ends, indices, side="right")

    def batch(self, indices: Int[np.ndarray, " B"], visit: int) -> Batch:
        """Clips by number; ``visit`` says which of a data set's clips, and which augmented variant, it is this time."""
        chosen = self.sources(indices)
        parts: list[Batch] = []
        places: list[Int[np.ndarray, " n"]] = []
        for place, cache in enumerate(self.caches):
            mine = np.flatnonzero(chosen == place)
            first = int(self._ends[place] - self.counts[place])
            drawn = visit * int(self.counts[place]) + indices[mine] - first
            for passed in np.unique(drawn // len(cache)).tolist():
                some = mine[drawn // len(cache) == passed]
                order = drawn[drawn // len(cache) == passed] % len(cache)
                if self.counts[place] != len(cache):  # in an order of its own, so that half a pass is a fair sample
                    order = shuffled(len(cache), place, passed)[order]
                parts.append(cache.batch(order, self.prompts, passed))
                places.append(some)
        back = torch.from_numpy(np.argsort(np.concatenate(places))).to(parts[0].video.device)
        return Batch(*(torch.cat(column)[back] for column in zip(*parts, strict=True)))
