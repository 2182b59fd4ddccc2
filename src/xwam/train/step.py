"""One training step: draw levels and noise, mix, predict, compare. Plain functions of values.

Everything random in step ``n`` comes from ``generator_for(seed, n)``, drawn for the whole (global) batch: a resumed
run, or one spread over several processes, repeats exactly the same draws.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xwam.config import Config
from xwam.denoise.losses import Term, loss_terms, weighted_sum
from xwam.denoise.noise import Draw, add_noise, draw_levels, draw_prefix, keep_given, observed, with_clean_actions
from xwam.model.xwam import XWAM
from xwam.tensors import Batch, NoiseLevels, Noisy, Velocity

CPU = torch.device("cpu")


def generator_for(seed: int, step: int, device: torch.device = CPU) -> torch.Generator:
    """The random source of one step: a function of the seed, the step and the kind of device alone.

    A GPU draws its own numbers: to draw a large batch's noise on the CPU takes longer than the step.
    """
    return torch.Generator(device).manual_seed((seed * 1_000_003 + step) % (2**63))


def draw(batch: Batch, config: Config, generator: torch.Generator) -> Draw:
    """Draw levels, noise and dropped prompts for a batch, on its device."""
    batch_size, device = len(batch.video), batch.video.device

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=generator.device).to(device)

    levels = draw_levels(batch_size, config.noise, generator)
    noise = Noisy(video=normal(batch.video), state=normal(batch.state), action=normal(batch.action))
    text_is_dropped = torch.rand(batch_size, generator=generator, device=generator.device) < config.train.text_dropout
    prefix = draw_prefix(batch_size, config.noise.max_prefix, generator)
    return Draw(
        levels=NoiseLevels(*(level.to(device) for level in levels)),
        noise=noise,
        text_is_dropped=text_is_dropped.to(device),
        given=observed(config, device)._replace(actions=prefix.to(device) if isinstance(prefix, Tensor) else prefix),
    )


def share(drawn: Draw, rank: int, num_ranks: int) -> Draw:
    """The rows of a global draw that belong to one of several processes."""
    prefix = drawn.given.actions
    return Draw(
        levels=NoiseLevels(*(x[rank::num_ranks] for x in drawn.levels)),
        noise=Noisy(*(x[rank::num_ranks] for x in drawn.noise)),
        text_is_dropped=drawn.text_is_dropped[rank::num_ranks],
        given=drawn.given._replace(actions=prefix[rank::num_ranks] if isinstance(prefix, Tensor) else prefix),
    )


def only_taught(drawn: Draw, batch: Batch) -> Draw:
    """The draw for these rows: clips whose actions are all masked (no demonstration) get them clean, at level 0."""
    is_taught = batch.action_mask.flatten(1).any(dim=1)
    return drawn._replace(levels=with_clean_actions(drawn.levels, ~is_taught))


def compute_terms(model: XWAM, batch: Batch, drawn: Draw, empty_prompt: Float[Tensor, "P Dt"]) -> dict[str, Term]:
    """Sum and count of the errors of one batch by modality (several processes add theirs up)."""
    return loss_terms(predict(model, batch, drawn, empty_prompt), batch, drawn)


def mixed(batch: Batch, drawn: Draw) -> Noisy:
    """What the network reads: a batch with its noise, but for what is given.

    Actions that are given (a prefix, or all of a sample's) are those that were executed: they led to the video.
    """
    levels = drawn.levels
    is_clean = (levels.action == 0)[:, None, None]
    clean = Noisy(video=batch.video, state=batch.state, action=torch.where(is_clean, batch.executed, batch.action))
    sigmas = Noisy(video=levels.video, state=levels.action, action=levels.action)
    noisy = Noisy(*(add_noise(c, n, s) for c, n, s in zip(clean, drawn.noise, sigmas, strict=True)))
    return keep_given(noisy, clean._replace(action=batch.executed), drawn.given)


def predict(model: XWAM, batch: Batch, drawn: Draw, empty_prompt: Float[Tensor, "P Dt"]) -> Velocity:
    """What the network answers to a batch with its noise mixed in."""
    context = torch.where(drawn.text_is_dropped[:, None, None], empty_prompt, batch.prompt)
    given = drawn.given
    return model(
        *mixed(batch, drawn), *drawn.levels, model.prompt_keys_values(context), given_frames=given.frames,
        given_states=given.states, given_actions=given.actions, depth=model.config.has_depth,
    )  # fmt: skip


def count_terms(batch: Batch, drawn: Draw, *, has_depth: bool) -> dict[str, Term]:
    """What compute_terms will count, known before the network runs (the sums mean nothing)."""
    anything = Velocity(batch.video, batch.depth if has_depth else None, batch.state, batch.action)
    return loss_terms(anything, batch, drawn)


def cut(batch: Batch, part: int, num_parts: int) -> Batch:
    """The rows of a batch that belong to one of several processes or micro-batches; goes with ``share``."""
    return Batch(*(x[part::num_parts] for x in batch))


def only(batch: Batch, chosen: Bool[Tensor, " B"]) -> Batch:
    """The same batch, of which nothing counts but the chosen rows."""
    masks = {name: x for name, x in batch._asdict().items() if name.endswith("_mask")}
    return batch._replace(**{name: x & chosen.view(-1, *[1] * (x.ndim - 1)) for name, x in masks.items()})


def total_loss(losses: dict[str, Tensor], config: Config) -> Float[Tensor, ""]:
    """The number that is minimised: every loss times its weight of the settings."""
    weights = {
        "video": config.train.video_loss_weight,
        "action": config.train.action_loss_weight,
        "state": config.train.state_loss_weight,
        "depth": config.train.depth_loss_weight,
    }
    return weighted_sum(losses, {name: weights[name] for name in losses})
