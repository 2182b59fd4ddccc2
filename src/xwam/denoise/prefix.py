"""Real-time chunking: the next chunk goes on from what the robot still plays of the last one (arXiv 2506.07339).

The first ``committed`` actions will be played whatever the answer says; the rest of the old chunk is a good guess. A
checkpoint trained with prefixes (arXiv 2512.05964) gets the committed ones clean, as ``Given.actions``; more of them
than it was trained with, too: that costs no time and came nearer than steering (docs/log.md). One that was not is
steered: every call's velocity is bent so that the clean actions seen from it agree with the old chunk ::

    clean    = action - sigma velocity
    velocity <- velocity - pull J^T (weight (old - clean))          J = d clean / d action, through the whole network
    pull     = min(MAX_PULL, ((1 - sigma)^2 + sigma^2) / (sigma (1 - sigma)))

The weight is 1 for committed actions and falls exponentially to 0 where the old chunk ends. A steered call costs about
three plain ones (it runs the network backwards).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xwam.denoise.guidance import Denoiser
from xwam.denoise.noise import keep_given
from xwam.tensors import Given, NoiseLevels, Noisy, Prefix, Velocity

MAX_PULL = 5.0  # the published setting
CANNOT_STEER = (
    "prefix: must be empty, since this checkpoint was not trained with prefixes and int8-dynamic carries no gradient "
    "to steer by; play without real-time chunking, or serve another precision (int8-weights, bfloat16)."
)


def begin(
    start: Noisy, given: Given, prefix: Prefix, *, max_prefix: int, can_steer: bool = True
) -> tuple[Noisy, Given, Prefix | None]:
    """Where to start from, what is given there, and what steers the samples whose prefix is not (None: there is none).

    ``max_prefix`` is the longest prefix that the checkpoint was trained with; 0: it was trained with none. Raises
    ValueError for a prefix that would have to steer a network without gradients (``can_steer=False``).
    """
    is_given = (prefix.known == 0) | (max_prefix > 0)
    rest = Prefix(prefix.action, *(torch.where(is_given, 0, count) for count in (prefix.known, prefix.committed)))
    is_steered, device = bool(rest.known.any()), start.action.device  # asked before anything goes to a GPU
    if is_steered and not can_steer:
        raise ValueError(CANNOT_STEER)
    given = given._replace(actions=torch.where(is_given, prefix.committed, 0).to(device))
    start = keep_given(start, start._replace(action=prefix.action.to(device)), given)
    return start, given, Prefix(*(x.to(device) for x in rest)) if is_steered else None


def soft_mask(known: Int[Tensor, " B"], committed: Int[Tensor, " B"], horizon: int) -> Float[Tensor, "B Ta"]:
    """How far to trust each old action: 1 where committed, then falling exponentially to 0 where no more are known."""
    step = torch.arange(horizon, device=known.device)
    known, committed = known[:, None], committed[:, None]
    left = ((known - step) / (known - committed + 1)).clamp(0, 1)
    soft = left * (torch.exp(left) - 1) / (math.e - 1)
    return torch.where(step < committed, 1.0, soft)


def steer(model: Denoiser, prefix: Prefix, sigma: float) -> Denoiser:
    """The same network, pulled towards the old chunk; for the one call in which the actions are at ``sigma``."""
    weight = soft_mask(prefix.known, prefix.committed, prefix.action.shape[1])[:, :, None]

    def denoiser(noisy: Noisy, levels: NoiseLevels, *, depth: bool, video: bool) -> Velocity:
        with torch.enable_grad():
            action = noisy.action.detach().requires_grad_()
            velocity = model(noisy._replace(action=action), levels, depth=depth, video=video)
            clean = action - sigma * velocity.action
            error = weight * (prefix.action - clean.detach())
            (correction,) = torch.autograd.grad(clean, action, error)
        return Velocity(
            video=None if velocity.video is None else velocity.video.detach(),
            depth=None if velocity.depth is None else velocity.depth.detach(),
            state=velocity.state.detach(),
            action=velocity.action.detach() - pull(sigma) * correction,
        )

    return denoiser


def pull(sigma: float) -> float:
    """How strongly a call is bent; at most MAX_PULL."""
    spread = (1 - sigma) ** 2 + sigma**2
    return min(MAX_PULL, spread / max(sigma * (1 - sigma), spread / MAX_PULL))


def put_back(noisy: Noisy, prefix: Prefix) -> Noisy:
    """The committed actions themselves: they are played whatever the network says."""
    return keep_given(noisy, noisy._replace(action=prefix.action), Given(frames=0, states=0, actions=prefix.committed))
