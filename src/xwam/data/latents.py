"""The columns of a latent cache (data/cache.py), in its files or in memory, and how some of them become a batch."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float16
from torch import Tensor

from xwam.encode import encode_states
from xwam.robot.normalizer import Normalizer
from xwam.tensors import Batch


class Latents(NamedTuple):
    """The columns of a cache: all clips, and of the latents all variants of each (or one, without that axis)."""

    video: Float16[Tensor, "N *K C F V h w"]
    depth: Float16[Tensor, "N *K C F V h w"]
    state: Float[Tensor, "N Ts Ds"]  # in the layout's units
    action: Float[Tensor, "N Ta Da"]
    executed: Float[Tensor, "N Ta Da"]
    video_mask: Bool[Tensor, "N F V"]
    depth_mask: Bool[Tensor, "N F V"]
    state_mask: Bool[Tensor, "N Ts"]
    action_mask: Bool[Tensor, "N Ta"]


def normalized(latents: Latents, normalizer: Normalizer) -> Latents:
    """States and actions as the network sees them."""
    return latents._replace(
        state=encode_states(latents.state.numpy(), normalizer),
        action=torch.from_numpy(normalizer.normalize_action(latents.action.numpy())),
        executed=torch.from_numpy(normalizer.normalize_action(latents.executed.numpy())),
    )


def used_slots(normalizer: Normalizer) -> tuple[Bool[Tensor, " Ds"], Bool[Tensor, " Da"]]:
    """Which slots of states and of actions mean something."""
    return torch.from_numpy(normalizer.layout.state_mask), torch.from_numpy(normalizer.layout.action_mask)


def batch_of(
    latents: Latents, used: tuple[Bool[Tensor, " Ds"], Bool[Tensor, " Da"]], prompt: Float[Tensor, "B P Dt"]
) -> Batch:
    """One variant of some clips, normalised, for a training step; ``used``: see used_slots."""
    return Batch(
        video=latents.video.float(),
        depth=latents.depth.float(),
        state=latents.state,
        action=latents.action,
        video_mask=latents.video_mask,
        depth_mask=latents.depth_mask,
        state_mask=latents.state_mask[..., None] & used[0],
        action_mask=latents.action_mask[..., None] & used[1],
        executed=latents.executed,
        prompt=prompt,
    )
