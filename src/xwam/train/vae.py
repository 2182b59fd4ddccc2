"""Training of the small video autoencoder: colour and depth pictures through the same weights.

In: films (pictures in memory). Out: a folder ``vae/`` that ``VideoVae.load`` reads, with the measured mean and spread
of its latents. Every step reconstructs random crops of random clips::

    loss = |error| + 4 error^2 + kl_weight * latent^2 / 2

The latents carry noise of a fixed, small size (the KL term of a fixed-variance posterior is ``latent^2 / 2``).
docs/log.md says why.

Noise is a function of (seed, step), as batches are: an interrupted run continues exactly.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from xwam.config import SPACE_STRIDE, VaeConfig
from xwam.files import as_json
from xwam.model.device import device_of
from xwam.model.vae import VideoVae
from xwam.train import checkpoint
from xwam.train.descend import check_gradient
from xwam.train.manifest import weights_hash
from xwam.train.optimizers import Muon, is_convolution
from xwam.train.options import Precision
from xwam.train.precision import matrix_precision
from xwam.train.rates import ema_decay_at, warm_then_cosine
from xwam.train.step import generator_for
from xwam.train.vae_recipe import ClipShape, Film, VaeTraining, draw_clips
from xwam.train.vae_saving import films_hash, go_on, write_training

ADVICE = "go on with a lower rate (`xwam train-vae … --learning-rate …`; of a run: with `--out RUN/frozen`)"
Step = Callable[[checkpoint.TrainingState, int], dict[str, Tensor]]
"""One step of training in place: state, number of the step -> numbers to show."""


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
    vae = channels_last(first_weights(config, training.seed, start).to(device_of(device)))
    average = {name: value.detach().clone() for name, value in vae.state_dict().items()}
    state = checkpoint.TrainingState(vae, average, optimizer_of(vae, training))
    saved = out / "vae-training"
    step = film_step([film.to(device) for film in films], training, precision)
    recipe = recipe_of(training, start, films=films_hash(films))
    done = run_steps(state, step, training, saved, recipe=recipe, max_minutes=max_minutes, log=log)
    return _finish(config, state, films, training, out) if done == training.num_steps else saved


def run_steps(
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
    started, idle = time.perf_counter(), 0
    bar = tqdm(total=training.num_steps, initial=done, desc="vae", unit="step")
    for now in range(done, training.num_steps):
        numbers = step(state, now)
        bar.update()
        done = now + 1
        idle = check_gradient(numbers["gradient_norm"], done, idle, advice=ADVICE)
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
        generator = generator_for(training.seed, now)
        with matrix_precision(video.device, precision):
            mean = vae.posterior(video)[0].float()
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            rebuilt = vae.reconstruct(mean + training.latent_noise * noise).float()
        kl = 0.5 * mean.square().mean()
        loss = reconstruction_loss(rebuilt, video) + training.kl_weight * kl
        norm = update(state, loss, training, now)
        numbers = {"loss": loss.detach(), "psnr": psnr(rebuilt.detach(), video), "kl": kl.detach()}
        return numbers | {"gradient_norm": norm}

    return step


def optimizer_of(vae: VideoVae, training: VaeTraining) -> Muon:
    """Muon on the convolutions that learn: it needs far fewer steps than AdamW (docs/log.md)."""
    return Muon(vae, learning_rate=training.learning_rate, weight_decay=0.01, is_matrix=is_convolution)


def update(
    state: checkpoint.TrainingState, loss: Float[Tensor, ""], training: VaeTraining, now: int
) -> Float[Tensor, ""]:
    """Weights and their average, one step down the loss; returns the gradient's norm.

    A gradient that is not finite changes nothing.
    """
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), training.max_gradient_norm)
    if torch.isfinite(norm):
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate_at(now, training)
        state.optimizer.step()
        decay = ema_decay_at(now, training.ema_decay)
        for name, value in state.model.state_dict().items():
            state.average[name].lerp_(value.detach(), 1 - decay)
    state.optimizer.zero_grad(set_to_none=True)
    return norm


def reconstruction_loss(rebuilt: Float[Tensor, "B 3 T H W"], video: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, ""]:
    """Mean absolute error, plus four times the mean squared error (which weighs large errors)."""
    error = rebuilt - video
    return error.abs().mean() + 4 * error.square().mean()


def psnr(rebuilt: Float[Tensor, "*any"], video: Float[Tensor, "*any"]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio of pictures in [-1, 1], in dB."""
    return 10 * torch.log10(4 / (rebuilt.clamp(-1, 1) - video).square().mean().clamp(min=1e-10))


def learning_rate_at(now: int, training: VaeTraining) -> float:
    """Warm up in a straight line, then half a cosine to a fiftieth."""
    share = warm_then_cosine(now, training.num_warmup_steps, training.num_steps, floor=0.02)
    return training.learning_rate * share


@torch.no_grad()
def measure_latents(
    vae: VideoVae, films: Sequence[Film], training: VaeTraining, *, num_batches: int = 32
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Mean and standard deviation of every latent channel over whole pictures and long clips."""
    size = min(min(film.shape[1:3]) for film in films) // SPACE_STRIDE * SPACE_STRIDE
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
    return as_json(facts | {"start": None if start is None else weights_hash(start)} | more)


def _finish(
    config: VaeConfig, state: checkpoint.TrainingState, films: Sequence[Film], training: VaeTraining, out: Path
) -> Path:
    """Write the averaged weights with their measured latent statistics."""
    vae = VideoVae.from_weights(config, {name: value.clone() for name, value in state.average.items()})
    vae.set_latent_stats(*measure_latents(vae, films, training))
    vae.save(out / "vae")
    return out / "vae"
