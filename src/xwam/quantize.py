"""Fewer bits from outside: the linear layers of a policy's blocks in int8 or float8 (torchao).

Everything else keeps its precision: the stream, norms, attention, embeddings, heads and the time MLPs. Answers change,
by how much stands in docs/results.md beside what it saves; so nothing here is ever chosen silently. Worth its error
only after ``xwam.compile.compiled``: torchao's products are fast when they are compiled.
"""

from typing import get_args

import torch
from torch import nn

from xwam.config import Quantization
from xwam.model.xwam import XWAM
from xwam.policy import Policy
from xwam.strict_json import suggest

KINDS: tuple[str, ...] = get_args(Quantization)


def quantized(policy: Policy, kind: str) -> Policy:
    """Quantise a policy's blocks in place and return it. Needs ``pip install 'xwam[quantize]'``.

    ``int8-dynamic``: weights and, at every call, activations, for CPUs with VNNI instructions and for GPUs.
    ``int8-weights``, ``float8-weights``: only memory shrinks; the products stay as they were.

    Products of integers carry no gradient: after ``int8-dynamic`` no prefix can steer the policy (denoise/prefix.py).
    """
    quantize_blocks(policy.networks.transformer, kind)
    if kind == "int8-dynamic":
        policy.networks = policy.networks._replace(is_differentiable=False)
    return policy


def quantize_blocks(model: XWAM, kind: str) -> None:
    """Quantise the linear layers inside the blocks, those of the depth branch too."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: {suggest(kind, KINDS)}")
    try:
        from torchao.quantization import (  # pyright: ignore[reportMissingImports]
            Float8WeightOnlyConfig,
            Int8DynamicActivationInt8WeightConfig,
            Int8WeightOnlyConfig,
            quantize_,
        )
    except ImportError as error:
        raise ImportError("quantised policies need torchao: pip install 'xwam[quantize]'") from error
    configs = {
        "int8-dynamic": Int8DynamicActivationInt8WeightConfig,
        "int8-weights": Int8WeightOnlyConfig,
        "float8-weights": Float8WeightOnlyConfig,
    }
    with torch.no_grad():
        quantize_(model, configs[kind](), filter_fn=_is_in_a_block)


def _is_in_a_block(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and name.startswith(("blocks.", "extra_blocks."))
