"""What training minimises: one number per modality (X-WAM, arXiv 2604.26694).

Every loss is a mean of squared errors over the elements that count, in the whole batch at once:

- ``video``   velocity, where ``video_mask`` is True, but for given latent frames;
- ``action``  velocity, where ``action_mask`` is True, samples with noisy actions (level > 0), but for given actions;
- ``state``   velocity, where ``state_mask`` is True, samples with a noisy action level, but for given states;
- ``depth``   clean depth latents, all latent frames, where ``depth_mask`` is True. Absent without a depth branch.

A loss with nothing to count is 0, with zero gradients. Padded steps, unused slots and missing depth never count.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xwam.denoise.noise import Draw, given_actions, given_frames
from xwam.tensors import Batch, Velocity


class Term(NamedTuple):
    """A loss before its division: several processes add up both numbers to get the loss of the global batch."""

    sum: Float[Tensor, ""]
    count: Float[Tensor, ""]


def masked_losses(predicted: Velocity, batch: Batch, drawn: Draw) -> dict[str, Float[Tensor, ""]]:
    """The loss of every modality, unweighted."""
    return {name: term.sum / term.count.clamp(min=1) for name, term in loss_terms(predicted, batch, drawn).items()}


def loss_terms(predicted: Velocity, batch: Batch, drawn: Draw) -> dict[str, Term]:
    """Sum and number of the squared errors that count, by modality."""
    assert predicted.video is not None, "in training the video is always asked for"
    noise, given = drawn.noise, drawn.given
    is_noisy = (drawn.levels.action > 0)[:, None, None]
    video_mask = batch.video_mask[:, None, :, :, None, None]
    state_mask, action_mask = batch.state_mask & is_noisy, batch.action_mask & is_noisy
    state = given.states  # the first one that is not given
    terms = {
        "video": _term(predicted.video, noise.video - batch.video, video_mask & ~given_frames(given, batch.video)),
        "state": _term(predicted.state[:, state:], (noise.state - batch.state)[:, state:], state_mask[:, state:]),
        "action": _term(
            predicted.action, noise.action - batch.action, action_mask & ~given_actions(given, batch.action)
        ),
    }
    if predicted.depth is not None:
        terms["depth"] = _term(predicted.depth, batch.depth, batch.depth_mask[:, None, :, :, None, None])
    return terms


def weighted_sum(losses: Mapping[str, Float[Tensor, ""]], weights: Mapping[str, float]) -> Float[Tensor, ""]:
    """The number to minimise. Raises ValueError unless every loss has a weight and every weight a loss."""
    if set(losses) != set(weights):
        raise ValueError(
            f"losses={sorted(losses)}, weights={sorted(weights)}: the names must be the same; "
            "a model without a depth branch has no depth loss, so give no weight for it."
        )
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def _term(predicted: Float[Tensor, "*all"], target: Float[Tensor, "*all"], mask: Bool[Tensor, "..."]) -> Term:
    # Selected before squaring, not multiplied by the mask: what does not count may be anything, even inf.
    error = torch.where(mask, predicted.float() - target.float(), 0.0)
    return Term(sum=error.square().sum(), count=mask.expand(error.shape).sum().to(error.dtype))
