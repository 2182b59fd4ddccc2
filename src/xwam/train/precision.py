"""How a network is computed: in bfloat16 or float32, and what is computed twice to save memory."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xwam.encode import Encoder
from xwam.model.vae import VideoVae
from xwam.model.xwam import XWAM, all_blocks
from xwam.train.options import Precision

FILMS_AT_ONCE = 4  # that a CPU encodes together: what lies between two layers then stays in its cache


def is_bfloat16(device: torch.device, wanted: Precision) -> bool:
    """True when matrix products are made in bf16; ``auto`` is bf16 on GPUs built for it and float32 elsewhere."""
    if wanted != "auto" or device.type != "cuda":
        return wanted == "bfloat16"
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def matrix_precision(device: torch.device, wanted: Precision) -> AbstractContextManager[object]:
    """Matrix products in bf16 or float32.

    Weights, norms and the residual stream stay float32 in both. On CPUs with bf16 instructions (AVX-512 BF16, AMX)
    bf16 products are two to three times faster, but only on request: it changes the numbers.
    """
    if is_bfloat16(device, wanted):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def recompute_blocks(model: XWAM) -> None:
    """Keep each block's inputs alone for the way back and compute the rest again: a third more work, less memory."""
    for block in all_blocks(model):
        block.forward = _again(block.forward)


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function, which the compiler can look into; it does not see through a partial of ``checkpoint``."""

    def recomputed(*inputs: Any) -> Any:
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)

    return recomputed


def encoder_of(vae: VideoVae, device: torch.device, precision: Precision) -> Encoder:
    """The encoder of many films ``B 3 T H W``, from wherever they are, to float32 latents on ``device``."""

    def encode(images: Tensor) -> Tensor:
        together = FILMS_AT_ONCE if device.type == "cpu" else len(images)
        with matrix_precision(device, precision):
            return torch.cat([vae.encode(films.to(device)).float() for films in images.split(together)])

    return encode
