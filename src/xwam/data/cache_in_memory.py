"""Latents held in a device's memory: on a GPU, reading them from files would take longer than a training step.

The same clips and numbers as the cache they come from (data/cache.py), in half precision as they lie there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xwam.data.cache import LatentCache
from xwam.data.latents import Latents, batch_of, normalized, used_slots
from xwam.robot.normalizer import Normalizer
from xwam.tensors import Batch


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
        self.normalizer, self.facts, self.fingerprint = normalizer, facts, fingerprint
        self.num_variants = latents.video.shape[1]
        self._words = sorted(set(instructions))
        self._word = torch.tensor([self._words.index(text) for text in instructions], device=device)
        self._latents = Latents(*(column.to(device) for column in normalized(latents, normalizer)))
        state, action = used_slots(normalizer)
        self._used = state.to(device), action.to(device)
        self._prompts: tuple[Mapping[str, Tensor] | None, Tensor] = (None, torch.empty(0))

    @classmethod
    def of(cls, cache: LatentCache, device: torch.device) -> "CacheInMemory":
        """All of a cache, read once."""
        latents, instructions = cache.columns()
        return cls(
            latents,
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
        chosen = Latents(held.video[rows, variant], held.depth[rows, variant], *(column[rows] for column in held[2:]))
        return batch_of(chosen, self._used, self._encoded(prompts)[self._word[rows]])

    def instructions(self) -> list[str]:
        """Every instruction that occurs, sorted."""
        return self._words

    def _encoded(self, prompts: Mapping[str, Float[Tensor, "P Dt"]]) -> Float[Tensor, "W P Dt"]:
        if self._prompts[0] is not prompts:
            self._prompts = prompts, torch.stack([prompts[text] for text in self._words]).to(self._word.device)
        return self._prompts[1]
