"""The autoencoder without a transformer (``xwam train-vae``): anew, on from a start, or its decoder alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xwam.config import Config, VaeConfig
from xwam.model.device import warn_of_idle_gpu
from xwam.policy import load_policy
from xwam.strict_json import load
from xwam.train.films import films_of
from xwam.train.options import Precision
from xwam.train.sources import Source, clips_of, shares
from xwam.train.vae import train_vae
from xwam.train.vae_decoder import train_decoder
from xwam.train.vae_imagined import train_decoder_on_imagined
from xwam.train.vae_recipe import VaeTraining, fitting


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
