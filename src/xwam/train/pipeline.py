"""From a data set to a checkpoint in one go: statistics, VAE, text encoder, latent cache, transformer.

Every stage leaves its result in the run's folder and is skipped when it is there already, so the same command
continues after an interruption::

    out/frozen/vae, out/frozen/text    the frozen parts
    out/latents                        clips after the VAE
    out/step-0001000                   a checkpoint: whole, self-contained
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xwam.config import Config, load
from xwam.data.cache import LatentCache, build_cache
from xwam.data.clips import Clips
from xwam.data.episodes import Episodes, camera_named
from xwam.data.lerobot import open_lerobot
from xwam.data.stats import normalizer_from
from xwam.encode import Batch
from xwam.model.text import TextEncoder
from xwam.model.vae import VideoVae
from xwam.presets import preset
from xwam.train.checkpoint import Robot
from xwam.train.loop import Run, Validate, batch_indices, train
from xwam.train.manifest import check_resume
from xwam.train.options import Setup, Watch
from xwam.train.setup import check_batch, join_world, my_device, one_after_the_other
from xwam.train.text import TINY_TEXT, train_text
from xwam.train.vae import VaeTraining, load_films, train_vae
from xwam.train.validate import make_closed_loop, make_validate, together, write_first_batch

EPISODES_FOR_VAE = 140  # as many films as fit in memory side by side


class PromptedClips:
    """Cached clips with their encoded prompts: the loop's TrainingData."""

    def __init__(self, cache: LatentCache, prompts: Mapping[str, Float[Tensor, "P Dt"]]) -> None:
        self.cache, self.prompts = cache, prompts
        self.empty_prompt = prompts[""]
        self.fingerprint = cache.fingerprint
        self.source_names = ("data",)

    def __len__(self) -> int:
        return len(self.cache)

    def sources(self, indices: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """All clips come from the one data set."""
        return np.zeros_like(indices)

    def batch(self, indices: Int[np.ndarray, " B"], visit: int) -> Batch:
        """Clips by number; ``visit`` picks the augmented variant."""
        *tensors, instructions = self.cache.batch(indices, visit)
        return Batch(*tensors, prompt=torch.stack([self.prompts[text] for text in instructions]))


def run_pipeline(
    preset_name: str,
    data: Path,
    out: Path,
    changes: Mapping[str, Any],
    *,
    vae: VaeTraining,
    every: int,
    num_variants: int,
    minutes: float | None = None,
    num_validation_clips: int = 4,
    start: Path | None = None,
    how: Setup = Setup(),  # noqa: B008 (frozen)
    watch: Watch = Watch(),  # noqa: B008 (frozen)
    device: str = "cpu",
) -> Path:
    """Run (or continue) all stages; returns the last checkpoint's folder.

    ``changes`` overrides fields of the preset's TrainConfig; a clip starts at ``every`` n-th step of each episode, in
    ``num_variants`` random crops and colourings. ``start`` is a checkpoint to fine-tune: its weights, VAE and text
    encoder are taken; its sizes must be the preset's. With several processes the first one prepares, the others wait.
    """
    config = preset(preset_name)
    config = replace(config, train=replace(config.train, **changes))
    target = my_device(device)
    world = join_world(target)
    check_batch(config.train.batch_size, world, how)
    check_resume(out, config, {}, how)
    episodes = open_lerobot(data)
    check_fits(config, episodes)
    if start is not None:
        _check_sizes(start, config)
    with one_after_the_other(world):
        run, clips = _prepare(config, episodes, out, vae, every, num_variants, start, how, str(target))
    run = run._replace(wandb_project=watch.wandb)
    validate = None
    if world.is_main:
        _show_first_batch(out / "first_batch.png", clips, config, run.frozen)
        validate = _validation(config, episodes, run, num_validation_clips, watch, str(target))
    return train(config, clips, run, device=device, start=start, validate=validate, how=how, max_minutes=minutes)


def _prepare(
    config: Config,
    episodes: Episodes,
    out: Path,
    vae: VaeTraining,
    every: int,
    num_variants: int,
    start: Path | None,
    how: Setup,
    device: str,
) -> tuple[Run, PromptedClips]:
    """Frozen parts, statistics and latents: made, or found where they were made before."""
    frozen = out / "frozen" if start is None else start
    if not (frozen / "vae" / "config.json").is_file():
        films = load_films(episodes, spread(episodes.num_episodes, EPISODES_FOR_VAE), config.view_names)
        train_vae(config.vae, films, vae, frozen, device=device, precision=how.precision)
    text = _text_encoder(config, episodes, frozen)
    clips = Clips(episodes, config.clip, config.view_names, every=every)
    for_training = _cached(clips, config, frozen, out / "latents", num_variants, text, device)
    normalizer = for_training.cache.normalizer
    cameras = tuple(c for c in episodes.cameras if c.name in config.view_names)
    facts = {
        "data": for_training.fingerprint,
        "statistics": normalizer.fingerprint(),
        "episodes": len(clips.numbers),
        "clips": len(clips),
        "preset": config.name,
    }
    return Run(out, Robot(normalizer, cameras), frozen, facts), for_training


def _validation(
    config: Config, episodes: Episodes, run: Run, num_clips: int, watch: Watch, device: str
) -> Validate | None:
    """What is looked at while the run learns: held-out clips and, when tasks are named, the closed loop."""
    held_out = Clips(episodes, config.clip, config.view_names, split="validation", padded=False)
    looks = []
    if len(held_out):
        looks.append(make_validate(config, held_out, run.robot, run.frozen, num_clips=num_clips, device=device))
    if watch.evaluate_tasks:
        looks.append(make_closed_loop(config, run, watch, device=device))
    return together(looks) if looks else None


def _show_first_batch(path: Path, clips: PromptedClips, config: Config, frozen: Path) -> None:
    """A picture of what the network sees first, once per run."""
    if not path.is_file():
        numbers, visit = batch_indices(len(clips), config.train.batch_size, config.train.seed, 0)
        write_first_batch(path, clips.batch(numbers[:4], visit), VideoVae.load(frozen / "vae"))


def _check_sizes(start: Path, config: Config) -> None:
    """Refuse to fine-tune a checkpoint whose sizes are not those of ``config``."""
    stored = load(Config, start / "config.json")
    if stored.model != config.model:
        raise ValueError(
            f"start={start} holds a model of preset {stored.name!r}: its sizes are not those of {config.name!r}."
        )


def check_fits(config: Config, episodes: Episodes) -> None:
    """Refuse a data set that lacks a camera, or whose vectors have other widths than the model."""
    layout = episodes.layout
    for name in config.view_names:
        camera_named(episodes.cameras, name)
    for what, ours, theirs in (
        ("state_width", config.model.state_width, layout.state_width),
        ("action_width", config.model.action_width, layout.action_width),
    ):
        if ours != theirs:
            raise ValueError(
                f"{what}={theirs} of the data set's layout {layout.name!r}: preset {config.name!r} has {ours}; "
                "choose a preset of that width or another layout."
            )


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` numbers below ``count``, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _text_encoder(config: Config, episodes: Episodes, frozen: Path) -> TextEncoder:
    """The run's text encoder; a small one is trained on the data set's wordings, grouped by task."""
    if not (frozen / "text" / "config.json").is_file():
        infos = [episodes.info(number) for number in range(episodes.num_episodes)]
        wordings: dict[str, Sequence[str]] = {}
        for task in sorted({info.task for info in infos}):
            wordings[task] = sorted({info.instruction for info in infos if info.task == task})
        train_text(config.text, config.model.text_length, wordings, TINY_TEXT, frozen)
    return TextEncoder.load(frozen / "text", config.model.text_length)


def _cached(
    clips: Clips, config: Config, frozen: Path, folder: Path, num_variants: int, text: TextEncoder, device: str
) -> PromptedClips:
    """Encode all clips once, and all prompts."""
    vae = VideoVae.load(frozen / "vae", encoder_only=True).to(device)
    vae_hash = hashlib.sha256((frozen / "vae" / "model.safetensors").read_bytes()).hexdigest()[:16]
    build_cache(
        folder, clips, lambda images: vae.encode(images.to(device)), vae_hash=vae_hash, num_variants=num_variants
    )
    cache = LatentCache(folder, normalizer_from(clips.episodes, only=clips.numbers))
    with torch.no_grad():
        prompts = {words: text.encode([words])[0] for words in ["", *cache.instructions()]}
    return PromptedClips(cache, prompts)
