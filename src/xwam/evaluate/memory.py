"""How much memory a preset needs, from real parameter counts (the models are built without storage).

Counted are weights, gradients and optimiser state: what is there all the time. Activations come on top; they depend on
the batch. Training keeps weights, gradients, two AdamW moments and the averaged (EMA) weights in float32; products in
bfloat16 also keep a bfloat16 copy of the weights between forward and backward.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import ByT5Tokenizer

from xwam.config import Config
from xwam.model.text import TextEncoder
from xwam.model.vae import VideoVae, is_decoder_name
from xwam.model.weights import is_depth_name
from xwam.model.xwam import XWAM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NUM_TRAINING_COPIES = 5  # in float32: weights, gradients, two moments, average


class Counts(NamedTuple):
    """Numbers in each part of a checkpoint."""

    backbone: int
    depth_branch: int
    vae_encoder: int
    vae_decoder: int
    text: int


class Row(NamedTuple):
    """What one use needs, in bytes, by the dtype of the matrix products."""

    use: str
    num_bytes: dict[str, int]


def count(config: Config) -> Counts:
    """Count every parameter once."""
    with torch.device("meta"):
        transformer = dict(XWAM(config.model).named_parameters())
        vae = dict(VideoVae(config.vae).named_parameters())
        text = dict(TextEncoder(config.text, config.model.text_length, ByT5Tokenizer()).named_parameters())
    depth = {name: tensor for name, tensor in transformer.items() if is_depth_name(name)}
    decoder = {name: tensor for name, tensor in vae.items() if is_decoder_name(name)}
    return Counts(
        backbone=_total(transformer) - _total(depth),
        depth_branch=_total(depth),
        vae_encoder=_total(vae) - _total(decoder),
        vae_decoder=_total(decoder),
        text=_total(text),
    )


def memory_table(config: Config) -> list[Row]:
    """What acting, imagining and training need, and the parts they are made of."""
    counts = count(config)
    policy = counts.backbone + counts.vae_encoder
    world = policy + counts.depth_branch + counts.vae_decoder
    transformer = counts.backbone + counts.depth_branch
    rows = [Row(name.replace("_", " "), _by_dtype(number)) for name, number in counts._asdict().items()]
    rows += [
        Row("policy, known prompts", _by_dtype(policy)),
        Row("policy, any prompt", _by_dtype(policy + counts.text)),
        Row("full 4D, known prompts", _by_dtype(world)),
        Row("full 4D, any prompt", _by_dtype(world + counts.text)),
    ]
    training = {name: _training_bytes(transformer, dtype) for name, dtype in DTYPES.items()}
    return [*rows, Row("training, from cached latents", training)]


def markdown(config: Config) -> str:
    """The table for people, in GB (1e9 bytes)."""
    lines = [f"| {config.name} | {' | '.join(DTYPES)} |", f"| --- |{' ---: |' * len(DTYPES)}"]
    for row in memory_table(config):
        lines.append(f"| {row.use} | {' | '.join(_gigabytes(row.num_bytes[dtype]) for dtype in DTYPES)} |")
    return "\n".join(lines)


def _total(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _by_dtype(count: int) -> dict[str, int]:
    return {name: count * dtype.itemsize for name, dtype in DTYPES.items()}


def _training_bytes(count: int, dtype: torch.dtype) -> int:
    copies = NUM_TRAINING_COPIES * count * torch.float32.itemsize
    working_copy = 0 if dtype == torch.float32 else count * dtype.itemsize
    return copies + working_copy


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
