"""Training of the decoder on what the transformer imagines, so that it draws imaginations as well as encodings.

Imagined latents are not those of the encoder: where the future is unsure they lie between several, and each carries
small errors of its own. Here the transformer is told the recorded actions (forward dynamics), so what it should have
imagined is known, picture by picture. In: a checkpoint and its data. Out: a folder ``vae/`` with the same encoder.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from xwam.data.augment import augment
from xwam.data.cache import cache_facts, keep_facts
from xwam.data.clips import Clips, evenly_spaced
from xwam.dynamics import latents_of_actions
from xwam.encode import encode_clips, encode_views, video_to_tensor
from xwam.evaluate.clips import check_same_robot
from xwam.files import Recent, as_json, whole_file
from xwam.model.vae import encoder_hash
from xwam.policy import Policy
from xwam.train import checkpoint
from xwam.train.manifest import weights_hash
from xwam.train.options import Precision
from xwam.train.precision import encoder_of, matrix_precision
from xwam.train.vae import Step, psnr, recipe_of, reconstruction_loss, update
from xwam.train.vae_decoder import run_decoder_steps
from xwam.train.vae_recipe import Film, VaeTraining

CLIPS_PER_FILE = 32
CLIPS_AT_ONCE = 8  # that the transformer imagines together
ENCODED_SHARE = 0.25  # of all films: as the encoder sees them, so that the decoder stays an autoencoder's
_SEED = 7  # of crops, colours and noise
_KINDS = ("colour", "depth")


class ImaginedFilm(NamedTuple):
    """One camera of one clip, colour or depth: what was imagined of it, what the encoder makes of it, what it was."""

    imagined: Float16[Tensor, "C F h w"]
    encoded: Float16[Tensor, "C F h w"]
    film: Film


class ImaginedFilms:
    """The films in files that imagine_films wrote; memory-mapped."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._open = Recent[Any](most=512)
        self._places = [
            (path, kind, row)
            for path in paths
            for kind in _KINDS
            for row in range(self._file(path).get_slice(f"{kind}/film").get_shape()[0])
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> ImaginedFilm:
        path, kind, row = self._places[index]
        return ImaginedFilm(*(self._file(path).get_slice(f"{kind}/{name}")[row] for name in ImaginedFilm._fields))

    def _file(self, path: Path) -> Any:
        return self._open.get(path, lambda path: safe_open(path, "pt"))


def train_decoder_on_imagined(
    policy: Policy,
    clips: Sequence[Clips],
    training: VaeTraining,
    out: Path,
    *,
    start: Path,
    num_clips: Sequence[int],
    precision: Precision = "auto",
    max_minutes: float | None = None,
    log: Callable[[dict[str, float], int], None] | None = None,
) -> Path:
    """Train (or continue) the decoder of the checkpoint ``start``, which ``policy`` was loaded from; see train_decoder.

    ``num_clips``, so many of each data set, are imagined first, into ``out/imagined`` (2.4 MB each, for three cameras
    with depth at 128 px), and found again. Batches are whole pictures, as many as the recipe's last shape says.
    """
    paths = []
    for some, share in zip(clips, num_clips, strict=True):
        _check(policy, some, share)
    for number, (some, share) in enumerate(zip(clips, num_clips, strict=True)):
        paths += imagine_films(policy, some, out / "imagined" / str(number), share, start, precision)
    step = imagined_step(ImaginedFilms(paths), training, precision, policy.device)
    recipe = recipe_of(training, start / "vae", imagined=list(num_clips), transformer=weights_hash(start))
    return run_decoder_steps(
        policy.config.vae, step, training, out, start=start / "vae", recipe=recipe, device=str(policy.device),
        max_minutes=max_minutes, log=log,
    )  # fmt: skip


def imagine_films(
    policy: Policy, clips: Clips, folder: Path, num_clips: int, start: Path, precision: Precision = "auto"
) -> list[Path]:
    """Imagine evenly spread clips with their own actions, as many steps as the checkpoint says; returns the files.

    Files that are there are kept. Raises ValueError when ``folder`` was made of something else, or without a clip.
    """
    _check(policy, clips, num_clips)
    facts = cache_facts(clips, vae_hash=encoder_hash(start / "vae"), num_variants=1, seed=_SEED) | {
        "num_clips": num_clips,
        "transformer": weights_hash(start),
        "statistics": policy.normalizer.fingerprint(),
        "denoise": as_json(dataclasses.asdict(policy.config.denoise)),
        "precision": precision,
    }
    keep_facts(folder, facts, what="imagined", advice="delete it, or use a new folder")
    chosen, files = evenly_spaced(len(clips), num_clips), []
    with tqdm(total=len(chosen), desc="imagine", unit="clip") as bar:
        for first in range(0, len(chosen), CLIPS_PER_FILE):
            some = chosen[first : first + CLIPS_PER_FILE]
            files.append(folder / f"films-{first // CLIPS_PER_FILE:05d}.safetensors")
            if not files[-1].is_file():
                groups = [some[i : i + CLIPS_AT_ONCE] for i in range(0, len(some), CLIPS_AT_ONCE)]
                parts = [_imagine(policy, clips, group, precision) for group in groups]
                tensors = {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}
                with whole_file(files[-1]) as temporary:
                    save_file(tensors, temporary)
            bar.update(len(some))
    return files


def imagined_step(films: ImaginedFilms, training: VaeTraining, precision: Precision, device: torch.device) -> Step:
    """One step in place: decode what was imagined (now and then: encoded), compare with what it should have been."""

    def step(state: checkpoint.TrainingState, now: int) -> dict[str, Tensor]:
        vae: Any = state.model
        latents, pictures = draw_films(films, training, now)
        latents, pictures = latents.to(device), pictures.to(device)
        with matrix_precision(device, precision):
            rebuilt = vae.reconstruct(vae.denormalize(latents)).float()
        loss = reconstruction_loss(rebuilt, pictures)
        norm = update(state, loss, training, now)
        return {"loss": loss.detach(), "psnr": psnr(rebuilt.detach(), pictures), "gradient_norm": norm}

    return step


def draw_films(
    films: ImaginedFilms, training: VaeTraining, now: int
) -> tuple[Float[Tensor, "B C F h w"], Float[Tensor, "B 3 T H W"]]:
    """Latents (normalised) and the pictures they should become; those of the encoder carry noise, of their spread."""
    generator = np.random.default_rng((training.seed, now))
    latents, pictures = [], []
    for index in generator.integers(len(films), size=training.shapes[-1].batch_size).tolist():
        film = films[index]
        if generator.random() < ENCODED_SHARE:
            noise = generator.standard_normal(film.encoded.shape).astype(np.float32)
            latents.append(film.encoded.float() + training.latent_noise * torch.from_numpy(noise))
        else:
            latents.append(film.imagined.float())
        is_depth = film.film.ndim == 3
        pictures.append(
            film.film.float().expand(3, *film.film.shape) if is_depth else video_to_tensor(film.film.numpy())
        )
    return torch.stack(latents), torch.stack(pictures).contiguous(memory_format=torch.channels_last_3d)


def _check(policy: Policy, clips: Clips, num_clips: int) -> None:
    check_same_robot(policy, clips.episodes)
    if not 0 < num_clips <= len(clips):
        raise ValueError(f"num_clips={num_clips} of a data set whose training episodes hold {len(clips)} whole clips.")


@torch.no_grad()
def _imagine(policy: Policy, clips: Clips, chosen: Sequence[int], precision: Precision) -> dict[str, Tensor]:
    """All films of some clips, colour and depth; those that are missing or cut short are left out."""
    crop, encode = clips.config.crop, encoder_of(policy.networks.vae, policy.device, precision)
    rows = [augment(clips[index], np.random.default_rng((_SEED, index)), crop=crop) for index in chosen]
    pixels = encode_clips(rows, policy.normalizer)
    video, depth = (encode_views(encode, images) for images in (pixels.video, pixels.depth))
    with matrix_precision(policy.device, precision):
        imagined, imagined_depth = latents_of_actions(
            policy,
            [clip.instruction for clip in rows],
            video[:, :, :1],
            pixels.state,
            pixels.executed,
            seeds=list(chosen),
        )
    films = {
        "colour": (imagined, video, torch.from_numpy(np.stack([clip.video for clip in rows])), pixels.video_mask),
        "depth": (imagined_depth, depth, pixels.depth[:, :, 0].half(), pixels.depth_mask),
    }
    found = {}
    for kind, (guess, truth, film, mask) in films.items():
        is_there = mask.all(dim=1) & (guess is not None)  # B V
        guess = truth if guess is None else guess
        found |= {
            f"{kind}/imagined": guess.movedim(3, 1).cpu()[is_there].half(),
            f"{kind}/encoded": truth.movedim(3, 1).cpu()[is_there].half(),
            f"{kind}/film": film[is_there],
        }
    return found
