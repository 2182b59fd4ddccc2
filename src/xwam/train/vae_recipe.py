"""How an autoencoder is trained, and what it is shown: random crops of random clips.

Batches are functions of (seed, step). Long clips pass the causal memory on, as inference does; single pictures give
latent frame 0, which must show the most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from xwam.config import ClipConfig
from xwam.train.options import VaeChanges

Film = UInt8[Tensor, "_N _H _W 3"] | Float16[Tensor, "_N _H _W"]  # films differ in length and size
"""All frames of one camera in one episode: RGB bytes, or depth as an image in [-1, 1]."""


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
    kl_weight=1e-2,  # latents then spread by about 1, and a tenth of that is noise
    frame_stride=4,
    max_gradient_norm=1.0,
    ema_decay=0.998,
    seed=1,
    save_every=200,
    num_image_steps=1200,
)


def fitting(training: VaeTraining, clip: ClipConfig) -> VaeTraining:
    """The same training, with crops that are no larger than the pictures, and films in half of its steps or more."""
    most = min(clip.height_px, clip.width_px)
    shapes = tuple(s._replace(size_px=min(s.size_px, most)) for s in training.shapes)
    return replace(training, shapes=shapes, num_image_steps=min(training.num_image_steps, training.num_steps // 2))


def changed_recipe(training: VaeTraining, changes: VaeChanges) -> VaeTraining:
    """The same training with these numbers instead of its own."""
    factor, size_px = changes.batch_factor, changes.crop_px
    shapes = tuple(s._replace(batch_size=factor * s.batch_size, size_px=size_px or s.size_px) for s in training.shapes)
    return replace(
        training,
        shapes=shapes,
        num_steps=changes.steps,
        num_image_steps=changes.image_steps,
        learning_rate=changes.learning_rate,
    )


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
