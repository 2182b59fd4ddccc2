"""What must be there before the transformer learns: frozen parts, statistics, latents, encoded prompts.

Everything is made once and found again. When it is all there, neither the VAE nor the text encoder is loaded.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from xwam.config import Config
from xwam.data.cache import LatentCache, build_cache, cache_facts, missing_shards
from xwam.data.cache_in_memory import CacheInMemory
from xwam.data.clips import Clips
from xwam.data.stats import KIND, normalizer_from
from xwam.files import fingerprint
from xwam.model.vae import VideoVae, encoder_hash
from xwam.processes import end_with_parent, in_processes
from xwam.robot.layout import Layout, load_layout
from xwam.robot.normalizer import Normalizer, load_normalizer
from xwam.train.films import films_of
from xwam.train.options import Precision, Setup
from xwam.train.precision import encoder_of
from xwam.train.prompts import encoded_prompts
from xwam.train.sources import Mixture, Source, clips_of
from xwam.train.text import TINY_TEXT, train_text
from xwam.train.vae import train_vae
from xwam.train.vae_recipe import VaeTraining, fitting


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
        normalizers = normalizers_of(sources, [clips.numbers for clips in all_clips], folder)
    else:
        normalizers = [statistics_for(source, statistics_of) for source in sources]
    for source, clips, normalizer in zip(sources, all_clips, normalizers, strict=True):
        place = folder if len(sources) == 1 else folder / source.name
        facts = cache_facts(clips, vae_hash=vae_hash, num_variants=num_variants, seed=0)
        if len(clips) == 0 or missing_shards(place, facts):
            fill = partial(
                _fill, folder=place, clips=clips, frozen=frozen, vae_hash=vae_hash, num_variants=num_variants,
                device=device, in_bfloat16=in_bfloat16,
            )  # fmt: skip
            in_processes(fill, processes)
        caches.append(LatentCache(place, normalizer))
    return caches


def normalizers_of(sources: Sequence[Source], numbers: Sequence[Sequence[int]], folder: Path) -> list[Normalizer]:
    """A normaliser for each data set, of these of its episodes; kept in ``folder``, as it looks at every number.

    Data sets of one layout share theirs: they are one robot's, which the network could not tell apart.
    """
    same: dict[Layout, list[int]] = {}
    for place, source in enumerate(sources):
        same.setdefault(source.episodes.layout, []).append(place)
    found = {}
    for layout, places in same.items():
        episodes, only = [sources[i].episodes for i in places], [list(numbers[i]) for i in places]
        measured = [(one.fingerprint, some) for one, some in zip(episodes, only, strict=True)]
        path = folder / f"statistics-{fingerprint(folder, (), KIND, measured)}.json"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            normalizer_from(*episodes, only=only).save(path)
        found[layout] = load_normalizer(path, layout)
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


def _fill(
    num_threads: int,
    progress: bool,
    *,
    folder: Path,
    clips: Clips,
    frozen: Path,
    vae_hash: str,
    num_variants: int,
    device: str,
    in_bfloat16: bool,
) -> None:
    """One process's share of a cache (in_processes)."""
    end_with_parent()
    torch.set_num_threads(num_threads)
    vae = VideoVae.load(frozen / "vae", encoder_only=True).to(device)
    encode = encoder_of(vae, torch.device(device), "bfloat16" if in_bfloat16 else "float32")
    build_cache(folder, clips, encode, vae_hash=vae_hash, num_variants=num_variants, progress=progress)
