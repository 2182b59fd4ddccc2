"""From a data set to a checkpoint in one go: statistics, VAE, text encoder, latent cache, transformer.

Every stage leaves its result in the run's folder and is skipped when it is there already, so the same command
continues after an interruption::

    out/frozen/vae, out/frozen/text    the frozen parts
    out/latents, out/prompts…          clips after the VAE, prompts after the text encoder
    out/step-0001000                   a checkpoint: whole, self-contained
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from xwam.config import Config
from xwam.data.cache import LatentCache
from xwam.data.cache_in_memory import CacheInMemory
from xwam.model.device import warn_of_idle_gpu
from xwam.model.vae import VideoVae
from xwam.presets import preset
from xwam.records import Camera
from xwam.robot.calibration import load_cameras
from xwam.tensors import Batch
from xwam.train.adapt import adapted, with_frozen_of, with_known_depth
from xwam.train.checkpoint import Robot
from xwam.train.loop import Run, Validate, batch_indices, train
from xwam.train.manifest import check_resume, check_start, warn_of_another_end
from xwam.train.options import Setup, Sources, Watch, changed
from xwam.train.peers import check_batch, join_peers, my_device, one_after_the_other, only_one_command, peers_may_wait
from xwam.train.preflight import check_possible
from xwam.train.prepare import make_frozen, make_latents, mixture_of
from xwam.train.sources import Mixture, Source, clips_of, fit, has_depth, open_sources
from xwam.train.vae_quality import warn_of_lost_pictures
from xwam.train.vae_recipe import VaeTraining
from xwam.train.validate import make_closed_loop, make_validate, together, write_first_batch

VALIDATION_CLIPS = 4  # held-out ones of each data set


def run_pipeline(
    preset_name: str,
    data: Path | Sequence[Path],
    out: Path,
    changes: Mapping[str, Any],
    *,
    vae: VaeTraining,
    sources: Sources = Sources(),  # noqa: B008 (frozen)
    minutes: float | None = None,
    start: Path | None = None,
    how: Setup = Setup(),  # noqa: B008 (frozen)
    watch: Watch = Watch(),  # noqa: B008 (frozen)
    device: str = "cpu",
) -> Path:
    """Run (or continue) all stages; returns the last checkpoint's folder.

    ``changes`` overrides fields of the preset's TrainConfig and NoiseConfig. ``start``: a checkpoint to fine-tune; its
    weights, VAE and text encoder are taken. It is made to fit the robot of ``sources``, and grown when the preset is a
    larger one (adapt.py). With several processes the first one prepares, the others wait. The same command once more,
    while this one runs, helps it to encode clips and ends with a ValueError.
    """
    if sources.statistics == "start" and start is None:
        raise ValueError("statistics='start': there is no checkpoint to take them from; give --start CHECKPOINT.")
    statistics_of = start if sources.statistics == "start" else None
    config = changed(preset(preset_name), changes)
    warn_of_idle_gpu(device)
    target = my_device(device)
    peers = join_peers(target)
    sets = [data] if isinstance(data, Path) else list(data)
    opened = open_sources(sets, sources.robot, sources.weights, is_whole=sources.train_on_all)
    config = fit(config if start is None else with_frozen_of(start, config), opened)
    config = with_known_depth(config, opened, start)
    check_possible(config, opened, how, watch, start, frozen=out / "frozen", statistics_of=statistics_of, device=target)
    check_batch(config.train.batch_size, peers, how)
    check_start(out, start)
    newest = check_resume(out, config, {}, how)  # the recipe, before hours of work; data and weights again in train()
    if peers.is_main:
        warn_of_another_end(newest, config.train)
    encode = partial(
        make_latents, config, opened, folder=out / "latents", every=sources.every, num_variants=sources.variants,
        processes=sources.cache_processes, device=str(target), precision=how.precision, statistics_of=statistics_of,
    )  # fmt: skip
    with only_one_command(out, peers, target) as is_mine, peers_may_wait(peers):
        if not is_mine:
            _help_to_encode(out, start or out / "frozen", encode)
        with one_after_the_other(peers):
            given, start = start, None if start is None else adapted(start, config, out / "start")  # one that fits
            frozen = start or out / "frozen"
            if start is None:
                make_frozen(config, opened, frozen, vae, how, str(target))
            elif newest is None and peers.is_main:
                warn_of_lost_pictures(config, opened, given or start, target)
            run, clips = _prepare(config, opened, out, frozen, given, encode, hold=sources.hold, device=str(target))
        run = run._replace(wandb_project=watch.wandb)
        validate = None
        if peers.is_main:
            _show_first_batch(out / "first_batch.png", clips, config, run.frozen, target)
            validate = _validation(config, opened, run, watch, str(target))
        return train(config, clips, run, device=device, start=start, validate=validate, how=how, max_minutes=minutes)


def _prepare(
    config: Config,
    opened: Sequence[Source],
    out: Path,
    frozen: Path,
    start: Path | None,
    encode: Callable[[Path], list[LatentCache]],
    *,
    hold: bool,
    device: str,
) -> tuple[Run, Mixture]:
    """Statistics and latents: made, or found where they were made before."""
    caches = encode(frozen)
    mixed = [CacheInMemory.of(cache, torch.device(device)) for cache in caches] if hold else caches
    data = mixture_of(config, opened, mixed, frozen, out / "prompts.safetensors", device)
    robots = [
        Robot(cache.normalizer, cameras, source.robot)
        for source, cache, cameras in zip(opened, caches, _cameras_of(opened, config, start), strict=True)
    ]
    train = [clips_of(source, config) for source in opened]
    facts = {
        "data": data.fingerprint,
        "statistics": "+".join(robot.normalizer.fingerprint() for robot in robots),
        "episodes": sum(len(clips.numbers) for clips in train),
        "demonstrations": sum(clips.num_demonstrations for clips in train),
        "clips": sum(len(cache) for cache in caches),
        "preset": config.name,
        **({"train_on_all": True} if opened[0].is_whole else {}),
    }
    others = {source.name: robot for source, robot in zip(opened, robots, strict=True)} if len(opened) > 1 else {}
    return Run(out, robots[0]._replace(others=others), frozen, facts), data


def _help_to_encode(out: Path, frozen: Path, encode: Callable[[Path], object]) -> NoReturn:
    """Another command trains in ``out``: encode clips that it still needs, and end with a ValueError that says so."""
    if not (frozen / "vae").is_dir():
        raise ValueError(
            f"out={out}: another command is at work there, and makes the autoencoder first; repeat this one later, to "
            "help it encode clips, or choose another folder."
        )
    encode(frozen)
    raise ValueError(
        f"out={out}: another command trains there; this one has helped it encode clips, and trained nothing."
    )


def _cameras_of(opened: Sequence[Source], config: Config, start: Path | None) -> list[tuple[Camera, ...]]:
    """Those of each data set that the model looks through; where no data set has any depth, the start's ranges stay.

    A camera whose depth neither the data nor the start's have taught is marked so. So is one without depth beside
    others that have it: the branch learns on from those alone, and a warning names it if the start knew its depth.
    """
    path = None if start is None else start / "cameras.json"
    stored = load_cameras(path) if path is not None and path.is_file() else ()
    learned = {camera.name: camera for camera in stored if camera.name in config.view_names}
    measured = {name for name in config.view_names if any(has_depth(source, [name]) for source in opened)}
    if measured:
        _warn_of_lost_depth(camera for name, camera in learned.items() if name not in measured)
        learned = {}

    def ranged(camera: Camera) -> Camera:
        known = learned.get(camera.name, camera)
        is_taught = camera.name in measured or (camera.name in learned and known.has_depth)
        return replace(camera, near_m=known.near_m, far_m=known.far_m, has_depth=is_taught)

    return [tuple(ranged(c) for c in source.episodes.cameras if c.name in config.view_names) for source in opened]


def _warn_of_lost_depth(cameras: Iterable[Camera]) -> None:
    """Cameras whose depth the start knows, and which the data teach no more."""
    if lost := ", ".join(repr(camera.name) for camera in cameras if camera.has_depth):
        warnings.warn(
            f"camera {lost}: the start knows its depth, and here other cameras have depth and it has none. Depth is "
            "then learned from those alone, so what is imagined of this one counts as unknown; add its depth "
            "(`xwam annotate depth`).",
            stacklevel=3,
        )


def _validation(config: Config, opened: Sequence[Source], run: Run, watch: Watch, device: str) -> Validate | None:
    """What is looked at while the run learns: held-out clips and, when tasks are named, the closed loop."""
    if not config.train.validate_every:
        return None
    held_out = {
        source.name: (clips, run.robot.others.get(source.name, run.robot))
        for source in opened
        if len(clips := clips_of(source, config, split="validation", padded=False))
    }
    looks = []
    if held_out:
        looks.append(make_validate(config, held_out, run, num_clips=VALIDATION_CLIPS, device=device))
    if watch.evaluate_tasks:
        looks.append(make_closed_loop(config, run, watch, device=device))
    return together(looks) if looks else None


def _show_first_batch(path: Path, clips: Mixture, config: Config, frozen: Path, device: torch.device) -> None:
    """A picture of what the network sees first, once per run."""
    if not path.is_file():
        numbers, _ = batch_indices(len(clips), config.train.batch_size, config.train.seed, 0)
        first = Batch(*(tensor.to(device) for tensor in clips.batch(numbers[:4], 0)))
        write_first_batch(path, first, VideoVae.load(frozen / "vae").to(device))
