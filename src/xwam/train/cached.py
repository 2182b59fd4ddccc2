"""Training from what an earlier run left, its frozen parts and its latents: the VAE runs once for many runs.

Also in here: fewer demonstrations than the cache holds, and depth as further views of the sequence.
"""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from xwam.config import Config
from xwam.data.cache import LatentCache, cache_facts, differences
from xwam.data.clips import Clips
from xwam.data.episodes import Episodes
from xwam.data.lerobot import open_lerobot
from xwam.data.stats import normalizer_from
from xwam.model.text import TextEncoder
from xwam.tensors import Batch
from xwam.train.checkpoint import Robot
from xwam.train.loop import Run, train
from xwam.train.options import Setup
from xwam.train.sources import Mixture, check_fits


class SomeClips:
    """Some of a cache's clips, with depth where the config wants it: the loop's TrainingData."""

    def __init__(self, clips: Mixture, chosen: Int[np.ndarray, " n"], *, depth_is_views: bool) -> None:
        self._clips, self._chosen, self._depth_is_views = clips, chosen, depth_is_views
        self.empty_prompt, self.source_names = clips.empty_prompt, clips.source_names
        self.fingerprint = hashlib.sha256(f"{clips.fingerprint} {chosen.tolist()}".encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._chosen)

    def sources(self, indices: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """Which data set each clip comes from."""
        return self._clips.sources(self._chosen[indices])

    def batch(self, indices: Int[np.ndarray, " B"], visit: int) -> Batch:
        """Clips by number; ``visit`` picks the augmented variant."""
        batch = self._clips.batch(self._chosen[indices], visit)
        return depth_as_views(batch) if self._depth_is_views else batch


def depth_as_views(batch: Batch) -> Batch:
    """Depth latents after the cameras' own, as if they were more cameras (see ``Config.depth_is_views``)."""
    return batch._replace(
        video=torch.cat([batch.video, batch.depth], dim=3),
        video_mask=torch.cat([batch.video_mask, batch.depth_mask], dim=2),
    )


def train_from_cache(
    config: Config,
    data: Path,
    source: Path,
    out: Path,
    *,
    num_demonstrations: int | None = None,
    how: Setup = Setup(),  # noqa: B008 (frozen)
    device: str = "cpu",
) -> Path:
    """Train (or go on) on the latents of the run ``source``, made of ``data``; returns the last checkpoint's folder.

    ``num_demonstrations``: only so many episodes of every task (the first ones); None: all. Statistics are those of the
    episodes in use. Raises ValueError when the latents were made of something else.
    """
    episodes = open_lerobot(data)
    check_fits(config, episodes)
    clips = _same_clips(config, episodes, source / "latents")
    numbers = clips.numbers
    if num_demonstrations is not None:
        numbers = first_of_each_task(episodes, numbers, num_demonstrations)
    cache = LatentCache(source / "latents", normalizer_from(episodes, only=[numbers]))
    kept = set(numbers)
    chosen = np.array([index for index in range(len(clips)) if clips.locate(index)[0] in kept])
    text = TextEncoder.load(source / "frozen" / "text", config.model.text_length)
    with torch.no_grad():
        prompts = {words: text.encode([words])[0] for words in ["", *cache.instructions()]}
    some = SomeClips(Mixture(["data"], [cache], [None], prompts), chosen, depth_is_views=config.depth_is_views)
    manifest = {
        "data": some.fingerprint,
        "statistics": cache.normalizer.fingerprint(),
        "episodes": len(numbers),
        "clips": len(some),
        "preset": config.name,
    }
    cameras = tuple(camera for camera in episodes.cameras if camera.name in config.view_names)
    run = Run(out, Robot(cache.normalizer, cameras), source / "frozen", manifest)
    return train(config, some, run, device=device, how=how)


def first_of_each_task(episodes: Episodes, numbers: list[int], count: int) -> list[int]:
    """The first ``count`` demonstrations of every task. Raises ValueError when a task has fewer."""
    by_task: dict[str, list[int]] = defaultdict(list)
    for number in numbers:
        demonstrated = episodes.demonstrated(number)
        if demonstrated is None or demonstrated.any():
            by_task[episodes.info(number).task].append(number)
    for task, found in by_task.items():
        if not 1 <= count <= len(found):
            raise ValueError(f"num_demonstrations={count}: task {task!r} has {len(found)} episodes to train on.")
    return sorted(number for found in by_task.values() for number in found[:count])


def _same_clips(config: Config, episodes: Episodes, folder: Path) -> Clips:
    """The clips that a cache was made of, in its order."""
    path = folder / "facts.json"
    if not path.is_file():
        raise FileNotFoundError(f"source={folder.parent}: no latents/facts.json there; give a run of `xwam train`.")
    facts = json.loads(path.read_text())
    clips = Clips(episodes, config.clip, config.view_names, every=facts["every"])
    expected = cache_facts(clips, vae_hash=facts["vae"], num_variants=facts["num_variants"], seed=facts["seed"])
    if changed := differences(facts, expected):
        raise ValueError(f"cache={folder} was made of something else ({changed}): give its own data.")
    return clips
