"""Latents held in a device's memory: on a GPU, reading them from files would take longer than a training step.

The same clips and numbers as the cache they come from (data/cache.py), in half precision as they lie there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Int
from torch import Tensor

from xwam.data.cache import LatentCache
from xwam.encode import Batch, encode_states
from xwam.robot.normalizer import Normalizer


class Latents(NamedTuple):
    """The columns of a cache: all clips, and of the latents all variants of each."""

    video: Float16[Tensor, "N K C F V h w"]
    depth: Float16[Tensor, "N K C F V h w"]
    state: Float[Tensor, "N Ts Ds"]  # in the layout's units
    action: Float[Tensor, "N Ta Da"]
    executed: Float[Tensor, "N Ta Da"]
    video_mask: Bool[Tensor, "N F V"]
    depth_mask: Bool[Tensor, "N F V"]
    state_mask: Bool[Tensor, "N Ts"]
    action_mask: Bool[Tensor, "N Ta"]


class CacheInMemory:
    """Answers as a LatentCache does, from memory; its batches lie on the device."""

    def __init__(
        self,
        latents: Latents,
        instructions: Sequence[str],
        normalizer: Normalizer,
        *,
        facts: Mapping[str, Any],
        fingerprint: str,
        device: torch.device,
    ) -> None:
        """``instructions``: of each clip. Everything moves to ``device`` (74 kB per clip of three 128-px cameras)."""
        layout = normalizer.layout
        self.normalizer, self.facts, self.fingerprint = normalizer, facts, fingerprint
        self.num_variants = latents.video.shape[1]
        self._words = sorted(set(instructions))
        self._word = torch.tensor([self._words.index(text) for text in instructions], device=device)
        self._latents = latents._replace(
            state=encode_states(latents.state.numpy(), normalizer),
            action=torch.from_numpy(normalizer.normalize_action(latents.action.numpy())),
            executed=torch.from_numpy(normalizer.normalize_action(latents.executed.numpy())),
        )
        self._latents = Latents(*(column.to(device) for column in self._latents))
        self._is_state, self._is_action = (
            torch.from_numpy(mask).to(device) for mask in (layout.state_mask, layout.action_mask)
        )
        self._prompts: tuple[Mapping[str, Tensor] | None, Tensor] = (None, torch.empty(0))

    @classmethod
    def of(cls, cache: LatentCache, device: torch.device) -> "CacheInMemory":
        """All of a cache, read once."""
        columns, instructions = cache.columns()
        return cls(
            Latents(**columns),
            instructions,
            cache.normalizer,
            facts=cache.facts,
            fingerprint=cache.fingerprint,
            device=device,
        )

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._word)

    def batch(
        self, indices: Int[np.ndarray, " B"], prompts: Mapping[str, Float[Tensor, "P Dt"]], visit: int = 0
    ) -> Batch:
        """As LatentCache.batch, on the device."""
        rows, held = torch.from_numpy(indices).to(self._word.device), self._latents
        variant = visit % self.num_variants
        return Batch(
            video=held.video[rows, variant].float(),
            depth=held.depth[rows, variant].float(),
            state=held.state[rows],
            action=held.action[rows],
            video_mask=held.video_mask[rows],
            depth_mask=held.depth_mask[rows],
            state_mask=held.state_mask[rows][..., None] & self._is_state,
            action_mask=held.action_mask[rows][..., None] & self._is_action,
            executed=held.executed[rows],
            prompt=self._encoded(prompts)[self._word[rows]],
        )

    def instructions(self) -> list[str]:
        """Every instruction that occurs, sorted."""
        return self._words

    def _encoded(self, prompts: Mapping[str, Float[Tensor, "P Dt"]]) -> Float[Tensor, "W P Dt"]:
        if self._prompts[0] is not prompts:
            self._prompts = prompts, torch.stack([prompts[text] for text in self._words]).to(self._word.device)
        return self._prompts[1]
