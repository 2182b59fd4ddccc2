"""What must be there before the transformer learns: frozen parts, statistics, latents, encoded prompts.

Everything is made once and found again. When it is all there, neither the VAE nor the text encoder is loaded.
"""

import multiprocessing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from xwam.config import ClipConfig, Config, VaeConfig
from xwam.data.cache import LatentCache, build_cache, cache_facts, missing_shards
from xwam.data.cache_in_memory import CacheInMemory
from xwam.data.clips import Clips, spread
from xwam.data.episodes import Episodes, camera_named
from xwam.data.stats import normalizer_from
from xwam.encode import depth_to_image
from xwam.images import resize, resize_nearest, to_bytes
from xwam.model.device import warn_of_idle_gpu
from xwam.model.vae import VideoVae, encoder_hash
from xwam.policy import load_policy
from xwam.processes import end_with_parent
from xwam.records import Camera
from xwam.robot.layout import Layout, load_layout
from xwam.robot.normalizer import Normalizer, load_normalizer
from xwam.strict_json import load
from xwam.train.options import Precision, Setup
from xwam.train.prompts import encoded_prompts
from xwam.train.setup import encoder_of
from xwam.train.sources import Mixture, Source, clips_of, has_depth, shares
from xwam.train.text import TINY_TEXT, train_text
from xwam.train.vae import train_vae
from xwam.train.vae_decoder import train_decoder
from xwam.train.vae_imagined import train_decoder_on_imagined
from xwam.train.vae_recipe import Film, VaeTraining, fitting

EPISODES_FOR_VAE = 140  # whose films lie in memory side by side
MOST_FILM_BYTES = 8e9
FRAMES_AT_ONCE = 128  # that are read in full size


def make_frozen(
    config: Config, sources: Sequence[Source], frozen: Path, vae: VaeTraining, how: Setup, device: str
) -> None:
    """Train the VAE and the text encoder on the data sets, unless they are there."""
    if not (frozen / "vae" / "config.json").is_file():
        recipe, films = fitting(vae, config.clip), films_of(config, sources)
        train_vae(config.vae, films, recipe, frozen, device=device, precision=how.precision)
    if not (frozen / "text" / "config.json").is_file():
        numbers = [clips_of(source, config).numbers for source in sources]  # of the training split
        train_text(config.text, config.model.text_length, wordings_of(sources, numbers), TINY_TEXT, frozen)


def wordings_of(sources: Sequence[Source], only: Sequence[Sequence[int]] | None = None) -> dict[str, list[str]]:
    """How each task is worded, both in alphabetical order; ``only``: in these episodes of each data set.

    A data set without names of tasks has its instructions as tasks: a named task of another data set that is worded so
    is the same task.
    """
    wordings: dict[str, set[str]] = {}
    numbers = [range(source.episodes.num_episodes) for source in sources] if only is None else only
    for source, some in zip(sources, numbers, strict=True):
        for number in some:
            info = source.episodes.info(number)
            wordings.setdefault(info.task, set()).add(info.instruction)
    named = {words for task, lines in wordings.items() for words in lines if words != task}
    return {task: sorted(lines) for task, lines in sorted(wordings.items()) if lines != {task} or task not in named}


def with_vae_of(start: Path, config: Config) -> Config:
    """``config`` with the sizes of the autoencoder of ``start``."""
    vae = load(VaeConfig, start / "vae" / "config.json")
    return replace(config, vae=vae, model=replace(config.model, latent_channels=vae.latent_channels))


def train_vae_alone(
    config: Config,
    sources: Sequence[Source],
    out: Path,
    recipe: VaeTraining,
    *,
    start: Path | None,
    decoder_only: bool,
    num_imagined: int = 0,
    num_episodes: int | None = None,
    precision: Precision,
    max_minutes: float | None,
    device: str,
) -> Path:
    """An autoencoder: anew, on from that of the checkpoint ``start``, or (its latents then stay) its decoder alone.

    ``num_imagined``: the decoder alone, on so many clips as the checkpoint's transformer imagines them. Returns
    ``out/vae``, or the folder of what is still to be continued. Raises ValueError for a start of other sizes, and for a
    decoder without a start.
    """
    first = None if start is None else start / "vae"
    if decoder_only and start is not None and (start / "config.json").is_file():  # it must fit that checkpoint as it is
        clip = replace(config.clip, antialias=load(Config, start / "config.json").clip.antialias)
        config = replace(config, clip=clip)
    warn_of_idle_gpu(device)
    rest: dict[str, Any] = {"precision": precision, "max_minutes": max_minutes, "device": device}
    recipe = fitting(recipe if first is None else replace(recipe, num_image_steps=0), config.clip)
    if decoder_only and first is None:
        raise ValueError("decoder_only=True: there is no encoder to keep; give --start CHECKPOINT.")
    if num_imagined:
        return _train_on_imagined(sources, out, recipe, start, num_imagined, **rest)
    films = films_of(config, sources, num_episodes)
    if first is None or not decoder_only:
        return train_vae(config.vae, films, recipe, out, start=first, **rest)
    return train_decoder(config.vae, films, recipe, out, start=first, **rest)


def _train_on_imagined(
    sources: Sequence[Source], out: Path, recipe: VaeTraining, start: Path | None, num_clips: int, **rest: Any
) -> Path:
    if start is None:
        raise ValueError(f"imagined={num_clips}: whose transformer shall imagine? Give --start CHECKPOINT.")
    policy = load_policy(start, device=rest.pop("device"))
    clips = [clips_of(source, policy.config, padded=False) for source in sources]
    chosen = shares(sources, num_clips)
    return train_decoder_on_imagined(policy, clips, recipe, out, start=start, num_clips=chosen, **rest)


def films_of(config: Config, sources: Sequence[Source], num_episodes: int | None = None) -> list[Film]:
    """What an autoencoder is trained on: films of so many episodes, none held out, from all cameras.

    They lie in memory. None: EPISODES_FOR_VAE, or as many as MOST_FILM_BYTES hold, with a warning.
    """
    clip, chosen, needed = config.clip, [], 0
    for source, share in zip(sources, shares(sources, num_episodes or EPISODES_FOR_VAE), strict=True):
        clips, episodes = clips_of(source, config), source.episodes  # of the training split
        some = [clips.numbers[place] for place in spread(len(clips.numbers), share)]
        names = [camera.name for camera in clips.seen_cameras]
        frames = sum(episodes.length(number) for number in some) * len(names)
        needed += frames * clip.height_px * clip.width_px * (5 if has_depth(source, names) else 3)  # bytes of a pixel
        chosen.append((episodes, some, names))
    if num_episodes is None and needed > MOST_FILM_BYTES:
        kept = MOST_FILM_BYTES / needed
        warnings.warn(
            f"{EPISODES_FOR_VAE} episodes would take {needed / 1e9:.0f} GB of memory: the autoencoder learns from "
            f"{kept:.0%} of them. `xwam train-vae --episodes N`, into the run's folder frozen, takes any number.",
            stacklevel=2,
        )
        fewer = [spread(len(some), max(1, int(kept * len(some)))) for _, some, _ in chosen]
        chosen = [(e, [some[n] for n in places], names) for (e, some, names), places in zip(chosen, fewer, strict=True)]
    films = []
    for episodes, some, names in chosen:
        films += load_films(episodes, some, names, clip)
    return films


def load_films(episodes: Episodes, indices: Sequence[int], view_names: Sequence[str], clip: ClipConfig) -> list[Film]:
    """Colour and, where there is one, depth of these episodes and cameras, in memory (82 kB for a 128 px frame).

    Of the size of ``clip``, so that the autoencoder learns the scale that it will be asked to encode.
    """
    size = (clip.height_px, clip.width_px)

    def coloured(frames: np.ndarray, _: Camera) -> np.ndarray:
        return to_bytes(resize(frames, *size, antialias=clip.antialias))

    def coded(metres: np.ndarray, camera: Camera) -> np.ndarray:
        near, far = camera.near_m, camera.far_m
        return depth_to_image(resize_nearest(metres, *size), near, far).astype(np.float16)

    films: list[Film] = []
    for index in tqdm(indices, desc="read", unit="episode"):
        for camera in (camera_named(episodes.cameras, name) for name in view_names):
            for read, made in ((episodes.frames, coloured), (episodes.depth, coded)):
                if (film := _film(read, made, index, camera, episodes.length(index))) is not None:
                    films.append(film)
    return films


def _film(read: Callable, made: Callable, index: int, camera: Camera, length: int) -> Film | None:
    """All pictures of an episode, FRAMES_AT_ONCE of them in full size; None where there are none."""
    found = []
    for steps in np.array_split(np.arange(length), -(-length // FRAMES_AT_ONCE)):
        pictures = read(index, camera.name, steps)
        if pictures is None:
            return None
        found.append(made(pictures, camera))
    return torch.from_numpy(np.concatenate(found))


def make_latents(
    config: Config,
    sources: Sequence[Source],
    frozen: Path,
    folder: Path,
    *,
    every: int,
    num_variants: int,
    processes: int,
    device: str,
    precision: Precision = "auto",
    statistics_of: Path | None = None,
) -> list[LatentCache]:
    """A cache for each data set; several have a folder each. ``statistics_of``: a checkpoint, instead of the data's.

    Only ``precision="bfloat16"`` encodes in bf16: half the time, and latents off by 1 % of their spread.
    """
    vae_hash = encoder_hash(frozen / "vae")
    in_bfloat16 = precision == "bfloat16"
    vae_hash += "-bfloat16" if in_bfloat16 else ""
    caches, all_clips = [], [clips_of(source, config, every=every) for source in sources]
    if statistics_of is None:  # before the latents: it looks at every number
        normalizers = normalizers_of(sources, [clips.numbers for clips in all_clips])
    else:
        normalizers = [statistics_for(source, statistics_of) for source in sources]
    for source, clips, normalizer in zip(sources, all_clips, normalizers, strict=True):
        place = folder if len(sources) == 1 else folder / source.name
        facts = cache_facts(clips, vae_hash=vae_hash, num_variants=num_variants, seed=0)
        if len(clips) == 0 or missing_shards(place, facts):
            fill = partial(_fill, place, clips, frozen, vae_hash, num_variants, device, in_bfloat16)
            in_processes(fill, processes)
        caches.append(LatentCache(place, normalizer))
    return caches


def normalizers_of(sources: Sequence[Source], numbers: Sequence[Sequence[int]]) -> list[Normalizer]:
    """A normaliser for each data set, of these of its episodes.

    Data sets of one layout share theirs: they are one robot's, which the network could not tell apart.
    """
    same: dict[Layout, list[int]] = {}
    for place, source in enumerate(sources):
        same.setdefault(source.episodes.layout, []).append(place)
    found = {
        layout: normalizer_from(*(sources[i].episodes for i in places), only=[numbers[i] for i in places])
        for layout, places in same.items()
    }
    return [found[source.episodes.layout] for source in sources]


def statistics_for(source: Source, checkpoint: Path) -> Normalizer:
    """A checkpoint's statistics, for a data set of the same robot. Raises ValueError when the robots differ."""
    layout = load_layout(checkpoint / "layout.json")
    if layout != source.episodes.layout:
        raise ValueError(
            f"statistics='start': the data set {source.name} has the layout {source.episodes.layout.name!r}, "
            f"{checkpoint} has {layout.name!r}, and they mean different things: use statistics='data'."
        )
    return load_normalizer(checkpoint / "normalizer.json", layout)


def mixture_of(
    config: Config,
    sources: Sequence[Source],
    caches: Sequence[LatentCache | CacheInMemory],
    frozen: Path,
    at: Path,
    device: str,
) -> Mixture:
    """The latents with their prompts, ready to train on; prompts are encoded on ``device``, and kept in ``at``."""
    words = {text for cache in caches for text in cache.instructions()}
    prompts = encoded_prompts(["", *sorted(words)], frozen, at, config.model.text_length, device)
    return Mixture([source.name for source in sources], caches, [source.weight for source in sources], prompts)


def in_processes(fill: partial, processes: int) -> None:
    """Let this process and some more share out the work, and the cores: too many threads wait for each other."""
    context, num_threads = multiprocessing.get_context("spawn"), torch.get_num_threads()
    share = max(1, num_threads // processes)
    helpers = [context.Process(target=fill, args=(share, False)) for _ in range(processes - 1)]
    for helper in helpers:
        helper.start()
    try:
        fill(share, True)
        for helper in helpers:
            helper.join()
    finally:
        torch.set_num_threads(num_threads)
        for helper in helpers:
            helper.terminate()


def _fill(
    folder: Path,
    clips: Clips,
    frozen: Path,
    vae_hash: str,
    num_variants: int,
    device: str,
    in_bfloat16: bool,
    num_threads: int,
    progress: bool,
) -> None:
    end_with_parent()
    torch.set_num_threads(num_threads)
    vae = VideoVae.load(frozen / "vae", encoder_only=True).to(device)
    encode = encoder_of(vae, torch.device(device), "bfloat16" if in_bfloat16 else "float32")
    build_cache(folder, clips, encode, vae_hash=vae_hash, num_variants=num_variants, progress=progress)
