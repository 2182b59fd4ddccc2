"""Training of the small video autoencoder: colour and depth pictures through the same weights.

In: a data set (``Episodes``). Out: a folder ``vae/`` that ``VideoVae.load`` reads, with the measured mean and spread of
its latents. Every step reconstructs random crops of random clips::

    loss = |error| + 4 error^2 + kl_weight * latent^2 / 2

The latents carry noise of a fixed, small size (the KL term of a fixed-variance posterior is ``latent^2 / 2``).
docs/log.md says why.

Long clips pass the causal memory on, as inference does; single pictures give latent frame 0, which must show the most.
Batches and noise are functions of (seed, step): an interrupted run continues exactly.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from xwam.config import ClipConfig, VaeConfig
from xwam.model.vae import VideoVae
from xwam.train import checkpoint
from xwam.train.manifest import weights_hash
from xwam.train.setup import Precision, matrix_precision
from xwam.train.vae_saving import films_hash, go_on, write_training

Film = UInt8[Tensor, "_N _H _W 3"] | Float16[Tensor, "_N _H _W"]  # films differ in length and size
"""All frames of one camera in one episode: RGB bytes, or depth as an image in [-1, 1]."""
Step = Callable[[checkpoint.TrainingState, int], dict[str, Tensor]]
"""One step of training in place: state, number of the step -> numbers to show."""


class ClipShape(NamedTuple):
    """One kind of training batch; kinds take turns at random, ``weight`` times as often."""

    size_px: int  # square crop; at most the pictures' own size
    num_frames: int
    batch_size: int
    weight: int


@dataclass(frozen=True, kw_only=True)
class VaeTraining:
    """How the autoencoder is trained."""

    shapes: tuple[ClipShape, ...]
    num_steps: int
    learning_rate: float
    num_warmup_steps: int
    kl_weight: float
    frame_stride: int  # action steps between two frames of a clip, as in training of the transformer
    max_gradient_norm: float
    ema_decay: float
    seed: int
    save_every: int
    latent_noise: float = 0.1  # standard deviation of what is added to the latents
    num_image_steps: int = 0  # the first steps see single pictures only: cheap, and space is learned first


TINY_VAE = VaeTraining(
    shapes=(ClipShape(64, 1, 16, 4), ClipShape(128, 1, 4, 2), ClipShape(64, 9, 4, 6)),
    num_steps=5200,
    learning_rate=4e-3,
    num_warmup_steps=100,
    kl_weight=1e-4,
    frame_stride=4,
    max_gradient_norm=1.0,
    ema_decay=0.998,
    seed=1,
    save_every=200,
    num_image_steps=1200,
)


def fitting(training: VaeTraining, clip: ClipConfig) -> VaeTraining:
    """The same training, with crops that are no larger than the pictures."""
    most = min(clip.height_px, clip.width_px)
    return replace(training, shapes=tuple(s._replace(size_px=min(s.size_px, most)) for s in training.shapes))


def in_larger_batches(training: VaeTraining, factor: int) -> VaeTraining:
    """The same training with ``factor`` times as many clips per step, for a GPU. Raises ValueError below 1."""
    if factor < 1:
        raise ValueError(f"batch_factor={factor}: must be 1 or more.")
    return replace(training, shapes=tuple(s._replace(batch_size=factor * s.batch_size) for s in training.shapes))


def train_vae(
    config: VaeConfig,
    films: Sequence[Film],
    training: VaeTraining,
    out: Path,
    *,
    device: str = "cpu",
    precision: Precision = "auto",
    start: Path | None = None,
    max_minutes: float | None = None,
    log: Callable[[dict[str, float], int], None] | None = None,
) -> Path:
    """Train (or continue) and return ``out/vae``.

    ``start``: the folder of an autoencoder of the same sizes whose weights to begin with; fresh ones otherwise. With
    ``max_minutes`` the run may end early: then ``out/vae-training`` is returned, there is no ``out/vae`` yet, and
    calling again continues. Raises ValueError when ``start`` has other sizes.
    """
    vae = channels_last(first_weights(config, training.seed, start).to(torch.device(device)))
    average = {name: value.detach().clone() for name, value in vae.state_dict().items()}
    optimizer = torch.optim.AdamW(vae.parameters(), lr=training.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    state = checkpoint.TrainingState(vae, average, optimizer)
    saved = out / "vae-training"
    step = film_step([film.to(device) for film in films], training, precision)
    recipe = recipe_of(training, start, films=films_hash(films))
    done = descend(state, step, training, saved, recipe=recipe, max_minutes=max_minutes, log=log)
    return _finish(config, state, films, training, out) if done == training.num_steps else saved


def descend(
    state: checkpoint.TrainingState,
    step: Step,
    training: VaeTraining,
    saved: Path,
    *,
    recipe: dict[str, Any],
    max_minutes: float | None,
    log: Callable[[dict[str, float], int], None] | None,
) -> int:
    """All steps that are still to do (or the minutes allow), in place; returns how many are done by now.

    ``saved`` is the folder to continue from (the ``recipe`` must be the same) and to save to.
    """
    done = go_on(saved, state, recipe) if checkpoint.restored(saved).is_dir() else 0
    started = time.perf_counter()
    bar = tqdm(total=training.num_steps, initial=done, desc="vae", unit="step")
    for now in range(done, training.num_steps):
        numbers = step(state, now)
        bar.update()
        done = now + 1
        out_of_time = max_minutes is not None and time.perf_counter() - started > 60 * max_minutes
        if done % 20 == 0:
            shown = {name: value.item() for name, value in numbers.items()}
            bar.set_postfix_str(" ".join(f"{name}={value:.4f}" for name, value in shown.items()))
            if log is not None:
                log(shown, done)
        if done % training.save_every == 0 or done == training.num_steps or out_of_time:
            write_training(saved, state, done, recipe)
        if out_of_time:
            break
    bar.close()
    return done


def film_step(films: Sequence[Film], training: VaeTraining, precision: Precision) -> Step:
    """One step in place: encode random crops of films, decode them, compare."""

    def step(state: checkpoint.TrainingState, now: int) -> dict[str, Tensor]:
        vae: Any = state.model
        video = draw_clips(films, training, np.random.default_rng((training.seed, now)), now)
        generator = torch.Generator().manual_seed(training.seed * 1_000_003 + now)
        with matrix_precision(video.device, precision):
            mean = vae.posterior(video)[0].float()
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            rebuilt = vae.reconstruct(mean + training.latent_noise * noise).float()
        kl = 0.5 * mean.square().mean()
        loss = reconstruction_loss(rebuilt, video) + training.kl_weight * kl
        update(state, loss, training, now)
        return {"loss": loss.detach(), "psnr": psnr(rebuilt.detach(), video), "kl": kl.detach()}

    return step


def update(state: checkpoint.TrainingState, loss: Float[Tensor, ""], training: VaeTraining, now: int) -> None:
    """Weights and their average, one step down the loss. Raises ValueError for a loss that is no number."""
    loss.backward()
    if not torch.isfinite(loss):  # asked late: a GPU has its work by then
        raise ValueError(f"loss={loss.item()} at step {now}: lower learning_rate={training.learning_rate}.")
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), training.max_gradient_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate_at(now, training)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    decay = min(training.ema_decay, (1 + now) / (10 + now))
    for name, value in state.model.state_dict().items():
        state.average[name].lerp_(value.detach(), 1 - decay)


def reconstruction_loss(rebuilt: Float[Tensor, "B 3 T H W"], video: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, ""]:
    """Mean absolute error, plus four times the mean squared error (which weighs large errors)."""
    error = rebuilt - video
    return error.abs().mean() + 4 * error.square().mean()


def psnr(rebuilt: Float[Tensor, "*any"], video: Float[Tensor, "*any"]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio of pictures in [-1, 1], in dB."""
    return 10 * torch.log10(4 / (rebuilt.clamp(-1, 1) - video).square().mean().clamp(min=1e-10))


def learning_rate_at(now: int, training: VaeTraining) -> float:
    """Warm up in a straight line, then half a cosine to a fiftieth."""
    if now < training.num_warmup_steps:
        return training.learning_rate * (now + 1) / training.num_warmup_steps
    done = (now - training.num_warmup_steps) / max(1, training.num_steps - training.num_warmup_steps)
    return training.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def draw_clips(
    films: Sequence[Film], training: VaeTraining, generator: np.random.Generator, now: int
) -> Float[Tensor, "B 3 T size size"]:
    """Random crops of random clips, all of one shape, in [-1, 1], where the films are; ``now`` is the step."""
    shapes = training.shapes
    if now < training.num_image_steps:
        shapes = tuple(shape for shape in shapes if shape.num_frames == 1) or shapes
    weights = np.array([shape.weight for shape in shapes], dtype=float)
    shape = shapes[generator.choice(len(weights), p=weights / weights.sum())]
    chosen = generator.integers(len(films), size=shape.batch_size)
    clips = [_cut_clip(films[index], shape, training.frame_stride, generator) for index in chosen.tolist()]
    return torch.stack(clips).contiguous(memory_format=torch.channels_last_3d)


def _cut_clip(
    film: Film, shape: ClipShape, frame_stride: int, generator: np.random.Generator
) -> Float[Tensor, "3 T size size"]:
    """One crop, over time the same. Beyond the film's end the last frame repeats, as in the transformer's clips."""
    num_frames, height, width = film.shape[:3]
    if min(height, width) < shape.size_px:
        raise ValueError(f"size_px={shape.size_px}: the pictures are only {width} x {height}; use smaller crops.")
    steps = generator.integers(num_frames) + frame_stride * np.arange(shape.num_frames)
    top, left = generator.integers(height - shape.size_px + 1), generator.integers(width - shape.size_px + 1)
    frames = torch.from_numpy(np.minimum(steps, num_frames - 1)).to(film.device)
    pixels = film[:, top : top + shape.size_px, left : left + shape.size_px][frames].float()
    if film.ndim == 3:
        return pixels.expand(3, *pixels.shape)
    # Colours vary a little, as the transformer's augmentation makes them vary.
    gain, offset = generator.uniform(0.8, 1.2, 3).astype(np.float32), generator.uniform(-0.15, 0.15)
    return ((pixels / 127.5 - 1) * torch.from_numpy(gain).to(film.device) + offset).clamp(-1, 1).movedim(-1, 0)


@torch.no_grad()
def measure_latents(
    vae: VideoVae, films: Sequence[Film], training: VaeTraining, *, num_batches: int = 32
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Mean and standard deviation of every latent channel over whole pictures and long clips."""
    size = min(min(film.shape[1:3]) for film in films) // 16 * 16
    longest = max(shape.num_frames for shape in training.shapes)
    whole = replace(training, shapes=(ClipShape(size, longest, 4, 1),))
    generator = np.random.default_rng((training.seed, 0, 1))
    device = vae.latent_mean.device
    latents = [
        vae.posterior(draw_clips(films, whole, generator, training.num_steps).to(device))[0] for _ in range(num_batches)
    ]
    rows = torch.cat(latents).movedim(1, -1).flatten(0, -2).double()
    return rows.mean(dim=0).float(), rows.std(dim=0).float()


def channels_last(vae: VideoVae) -> VideoVae:
    """The memory order in which convolutions are fastest (about 15 % on CPU); the numbers do not change."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return vae


def first_weights(config: VaeConfig, seed: int, start: Path | None) -> VideoVae:
    """Those in the folder ``start``, or fresh ones. Raises ValueError when ``start`` has other sizes."""
    if start is not None:
        vae = VideoVae.load(start).train()
        if vae.config != config:
            raise ValueError(f"start={start} holds {vae.config}: this preset has {config}; they must be the same.")
        return vae
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the library draws its first weights from the global source
        return VideoVae(config)


def recipe_of(training: VaeTraining, start: Path | None, **more: Any) -> dict[str, Any]:
    """What decides the result, in JSON's own types."""
    facts = {name: value for name, value in asdict(training).items() if name != "save_every"}
    return json.loads(json.dumps(facts | {"start": None if start is None else weights_hash(start)} | more))


def _finish(
    config: VaeConfig, state: checkpoint.TrainingState, films: Sequence[Film], training: VaeTraining, out: Path
) -> Path:
    """Write the averaged weights with their measured latent statistics."""
    vae = VideoVae.from_weights(config, {name: value.clone() for name, value in state.average.items()})
    vae.set_latent_stats(*measure_latents(vae, films, training))
    vae.save(out / "vae")
    return out / "vae"
