"""LoRA: the big matrices stay as they are and learn a small product each, ``W + B A`` (peft does it).

Adapted are attention and ffn of the main blocks. What a new robot needs anew is trained in full: view embedding, action
and state MLPs, and the depth branch. Everything else rests.
"""

import math

import torch
from torch import Tensor, nn

TARGETS = r"blocks\.\d+\.((self|cross)_attn\.[qkvo]|ffn\.[02])"
IN_FULL = ("view_embedding.", "action_", "proprio_", "extra_blocks.", "extra_heads.")
BASE, DOWN, UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"  # peft's names


def add_lora(model: nn.Module, rank: int) -> None:
    """Put adapters into a model, in place, and let nothing but them and IN_FULL learn. ``W + B A``, unscaled.

    Needs peft: ``pip install 'xwam[lora]'``.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(f"lora_rank={rank} needs peft: pip install 'xwam[lora]'") from error
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), model)
    for name, weight in model.named_parameters():
        weight.requires_grad_(is_adapter(name) or name.startswith(IN_FULL))


def is_adapter(name: str) -> bool:
    """True for the matrices that LoRA adds."""
    return name.endswith((DOWN, UP))


def plain_name(name: str) -> str:
    """The name that a weight has in a model without adapters."""
    return name.replace(BASE, ".")


def draw_adapter(name: str, weight: Tensor, generator: torch.Generator) -> None:
    """How adapters begin: ``A`` as a linear layer does, ``B`` at zero, so that nothing changes at first."""
    if name.endswith(UP):
        weight.zero_()
    else:
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


def merge(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with adapters to plain ones, float32: ``W + B A``. Plain ones stay as they are.

    ``weights`` is used up: each matrix is let go of when its sum is there, so that there are never two of all.
    """
    for name in [name for name in weights if name.endswith(DOWN)]:
        layer = name.removesuffix(DOWN)
        base = f"{layer}{BASE}weight"
        weights[base] = weights[base].float() + weights.pop(layer + UP).float() @ weights.pop(name).float()
    return {plain_name(name): value for name, value in weights.items()}
