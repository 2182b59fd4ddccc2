"""Noise levels: how much noise each modality carries, in training and at inference.

A level ``sigma`` is in [0, 1]: 0 is clean data, 1 is pure noise. Data and noise are joined by a straight line, and
the network predicts its direction::

    noisy    = (1 - sigma) * clean + sigma * noise
    velocity = noise - clean
    shift(s) = a s / (1 + (a - 1) s)          pushes levels towards noise; a = 5 (X-WAM, arXiv 2604.26694)

Video and actions have levels of their own, so the robot's actions can be finished while the video is still noise.
The state always shares the action's level. What is given (the observation; actions that a robot has already committed
itself to) is clean, at level 0, whatever the levels say.
"""

from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xwam.config import Config, NoiseConfig
from xwam.strict_json import suggest
from xwam.tensors import Given, NoiseLevels, Noisy

Level = TypeVar("Level", float, np.ndarray, Tensor)


NO_PREFIX_RATIO = 0.5  # of the samples of a training that gives prefixes: the plain request stays the usual one


class Draw(NamedTuple):
    """What is random in one training step, and what is given in it: clean, never trained."""

    levels: NoiseLevels
    noise: Noisy
    text_is_dropped: Bool[Tensor, " B"]
    given: Given  # the observation, and the actions of a prefix


def shift(sigma: Level, amount: float) -> Level:
    """Push levels towards 1 (``amount`` > 1); 0 and 1 stay where they are."""
    return amount * sigma / (1 + (amount - 1) * sigma)


def add_noise(
    clean: Float[Tensor, "B *rest"], noise: Float[Tensor, "B *rest"], sigma: Float[Tensor, " B"]
) -> Float[Tensor, "B *rest"]:
    """Place each sample at its level on the line from data to noise."""
    sigma = sigma.to(clean.dtype).view(-1, *[1] * (clean.ndim - 1))
    return (1 - sigma) * clean + sigma * noise


def keep_given(noisy: Noisy, clean: Noisy, given: Given) -> Noisy:
    """``noisy`` with its given part (leading frames, states, actions) taken from ``clean``."""
    is_given = given_actions(given, noisy.action)
    return Noisy(
        video=torch.where(given_frames(given, noisy.video), clean.video, noisy.video),
        state=torch.cat([clean.state[:, : given.states], noisy.state[:, given.states :]], dim=1),
        action=torch.where(is_given, clean.action, noisy.action),
    )


def observed(config: Config, device: torch.device) -> Given:
    """What an observation fixes: the first state, and the first frame of every camera (but not of depth as views)."""
    if not config.depth_is_views:
        return Given(frames=1, states=1)
    num_views = len(config.view_names)
    return Given(frames=torch.tensor([1] * num_views + [0] * num_views, device=device), states=1)


def depth_apart(
    video: Float[Tensor, "B C F _V h w"], depth: Float[Tensor, "B C F V h w"] | None, config: Config
) -> tuple[Float[Tensor, "B C F V h w"], Float[Tensor, "B C F V h w"] | None]:
    """Latents of the cameras and of their depth (None: the model has none), however the model arranges them."""
    if not config.depth_is_views:
        return video, depth
    cameras, as_views = video.chunk(2, dim=3)
    return cameras, as_views


def given_frames(given: Given, video: Float[Tensor, "B C F V h w"]) -> Bool[Tensor, "F _V 1 1"]:
    """True at the latent frames that are given; one column for all views unless they differ."""
    frame = torch.arange(video.shape[2], device=video.device)[:, None]
    return (frame < given.frames)[..., None, None]


def given_actions(given: Given, action: Float[Tensor, "B Ta Da"]) -> Bool[Tensor, "_ Ta 1"]:
    """True at the actions that are given; one row for the whole batch unless samples differ."""
    step = torch.arange(action.shape[1], device=action.device)
    count = given.actions[:, None] if isinstance(given.actions, Tensor) else given.actions
    return (step < count).view(-1, len(step), 1)


def draw_prefix(batch_size: int, max_prefix: int, generator: torch.Generator) -> int | Int[Tensor, " B"]:
    """How many leading actions of each training sample are given, as if a robot still played them.

    None for half of the samples; 1 to ``max_prefix``, all equally often, for the others. So the network learns to go on
    from what is already committed ("Training-Time Action Conditioning for Efficient Real-Time Chunking", arXiv
    2512.05964; real-time chunking itself: arXiv 2506.07339), and the first actions still train in most samples.
    ``max_prefix`` 0 draws nothing.
    """
    if max_prefix == 0:
        return 0
    has_none = _uniform(batch_size, generator) < NO_PREFIX_RATIO
    count = torch.randint(1, max_prefix + 1, (batch_size,), generator=generator, device=generator.device)
    return torch.where(has_none, 0, count)


def draw_levels(batch_size: int, config: NoiseConfig, generator: torch.Generator) -> NoiseLevels:
    """Draw the levels of one training batch, on the generator's device.

    ``asynchronous`` is X-WAM's Asynchronous Noise Sampling: the levels that inference visits and no others, so the
    video is never cleaner than the actions. ``synchronous`` (one level for both) and ``decoupled`` (two independent
    levels) are the alternatives that the paper compares.
    """
    if config.draw not in _DRAWS:
        raise ValueError(f"draw={config.draw!r}: {suggest(config.draw, _DRAWS)}")
    levels = _DRAWS[config.draw](batch_size, config, generator)
    return NoiseLevels(*(shift(level, config.shift) for level in levels))


def with_clean_actions(levels: NoiseLevels, chosen: Bool[Tensor, " B"]) -> NoiseLevels:
    """Levels of samples that teach what follows from actions, and not how to act: the actions of ``chosen`` are clean.

    Their video takes the level that the actions had, as where the asynchronous draw makes actions clean by itself.
    """
    video = torch.where(chosen & (levels.action > 0), levels.action, levels.video)
    return NoiseLevels(video=video, action=torch.where(chosen, 0.0, levels.action))


def _asynchronous(batch_size: int, config: NoiseConfig, generator: torch.Generator) -> NoiseLevels:
    level = _uniform(batch_size, generator)
    beta = _uniform(batch_size, generator) ** (1 / 1.5)  # Beta(1.5, 1) by inversion
    actions_are_clean = _uniform(batch_size, generator) < config.clean_action_ratio
    return NoiseLevels(
        video=torch.where(actions_are_clean, level, level + (1 - level) * beta),
        action=torch.where(actions_are_clean, 0.0, level),
    )


def _synchronous(batch_size: int, config: NoiseConfig, generator: torch.Generator) -> NoiseLevels:
    level = _uniform(batch_size, generator)
    return NoiseLevels(video=level, action=level)


def _decoupled(batch_size: int, config: NoiseConfig, generator: torch.Generator) -> NoiseLevels:
    return NoiseLevels(video=_uniform(batch_size, generator), action=_uniform(batch_size, generator))


def _uniform(batch_size: int, generator: torch.Generator) -> Float[Tensor, " B"]:
    return torch.rand(batch_size, generator=generator, device=generator.device)


_DRAWS = {"asynchronous": _asynchronous, "synchronous": _synchronous, "decoupled": _decoupled}
