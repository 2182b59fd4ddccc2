"""What crosses a door inside: batches of tensors, normalised, as the network reads and answers them.

What crosses the doors to the outside, in physical units, is in ``records.py``. Letters: docs/glossary.md.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Pixels(NamedTuple):
    """A batch of clips before the VAE: images in [-1, 1], states and actions normalised, masks True where real."""

    video: Float[Tensor, "B V 3 T H W"]
    depth: Float[Tensor, "B V 3 T H W"]
    state: Float[Tensor, "B Ts Ds"]
    action: Float[Tensor, "B Ta Da"]
    video_mask: Bool[Tensor, "B F V"]
    depth_mask: Bool[Tensor, "B F V"]
    state_mask: Bool[Tensor, "B Ts Ds"]
    action_mask: Bool[Tensor, "B Ta Da"]
    executed: Float[Tensor, "B Ta Da"]  # the actions that led to these images


class Batch(NamedTuple):
    """What a training step eats: as Pixels, with latents in place of images and the encoded prompt."""

    video: Float[Tensor, "B C F V h w"]
    depth: Float[Tensor, "B C F V h w"]
    state: Float[Tensor, "B Ts Ds"]
    action: Float[Tensor, "B Ta Da"]
    video_mask: Bool[Tensor, "B F V"]
    depth_mask: Bool[Tensor, "B F V"]
    state_mask: Bool[Tensor, "B Ts Ds"]
    action_mask: Bool[Tensor, "B Ta Da"]
    executed: Float[Tensor, "B Ta Da"]  # what is given where actions are given; ``action`` is what should be done
    prompt: Float[Tensor, "B P Dt"]


class Prefix(NamedTuple):
    """What robots still play of their last chunks, from the observation on; normalised, zero beyond what is known."""

    action: Float[Tensor, "B Ta Da"]
    known: Int[Tensor, " B"]  # how many are left of the old chunk; 0: this robot stands still
    committed: Int[Tensor, " B"]  # how many of them will be played whatever the answer says


class NoiseLevels(NamedTuple):
    """One level per sample, each in [0, 1]; the state shares the action's."""

    video: Float[Tensor, " B"]
    action: Float[Tensor, " B"]


class Noisy(NamedTuple):
    """What the network reads: latents, normalised states and actions, each somewhere between clean and noise."""

    video: Float[Tensor, "B C F V h w"]
    state: Float[Tensor, "B Ts Ds"]
    action: Float[Tensor, "B Ta Da"]


class Given(NamedTuple):
    """How many leading latent frames, states and actions are known: they are clean, whatever the levels say.

    ``actions`` may differ from sample to sample (a robot still playing its last chunk knows its next actions), and
    ``frames`` from view to view.
    """

    frames: int | Int[Tensor, " V"] = 1
    states: int = 1
    actions: int | Int[Tensor, " B"] = 0


class Velocity(NamedTuple):
    """What the network answers, ``noise - clean``; None where not asked for.

    ``depth`` is no velocity but the clean depth latents.
    """

    video: Float[Tensor, "B C F V h w"] | None
    depth: Float[Tensor, "B C F V h w"] | None
    state: Float[Tensor, "B Ts Ds"]
    action: Float[Tensor, "B Ta Da"]
