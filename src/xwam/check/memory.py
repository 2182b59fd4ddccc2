"""How much memory a preset needs, from real parameter counts (the models are built without storage).

Counted are weights, gradients and optimiser state: what is there all the time. Activations come on top; they depend
on the batch. A policy keeps the encoder of the VAE in float32 whatever its dtype, and its text encoder as the file has
it (Wan's: bfloat16; one that was trained here is counted in float32). Training keeps weights, gradients, two AdamW
moments and the averaged (EMA) weights in float32; products in bfloat16 also keep a copy of the weights in bfloat16
between forward and backward.
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
    """What one use needs, in bytes, by the dtype that ``load_policy`` is given."""

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
    fixed = {"vae_encoder": torch.float32, "text": torch.float32}  # whatever the policy's dtype is
    if config.text.tokenizer == "sentencepiece":  # Wan's
        fixed["text"] = torch.bfloat16
    parts = {name: _by_dtype(number, fixed.get(name)) for name, number in counts._asdict().items()}
    policy, world = ("backbone", "vae_encoder"), ("backbone", "vae_encoder", "depth_branch", "vae_decoder")
    uses = {
        "policy, known prompts": policy,
        "policy, any prompt": (*policy, "text"),
        "full 4D, known prompts": world,
        "full 4D, any prompt": (*world, "text"),
    }
    rows = [Row(name.replace("_", " "), num_bytes) for name, num_bytes in parts.items()]
    rows += [Row(use, {d: sum(parts[name][d] for name in names) for d in DTYPES}) for use, names in uses.items()]
    transformer = counts.backbone + counts.depth_branch
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


def _by_dtype(count: int, fixed: torch.dtype | None) -> dict[str, int]:
    return {name: count * (fixed or dtype).itemsize for name, dtype in DTYPES.items()}


def _training_bytes(count: int, dtype: torch.dtype) -> int:
    copies = NUM_TRAINING_COPIES * count * torch.float32.itemsize
    working_copy = 0 if dtype == torch.float32 else count * dtype.itemsize
    return copies + working_copy


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
