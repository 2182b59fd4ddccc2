"""A trained model in a larger one, which computes the same before it learns on.

The stream becomes ``times`` copies of itself side by side (as Net2Net does it, arXiv 1511.05641): a norm over the width
gives the same result, and every head is repeated as it is. A matrix that reads the copies divides its weights among
them, plus random parts that sum to zero; with equal parts the copies would get equal gradients and stay equal. A new
block is a copy of the one before it with its last layers set to zero (as LLaMA Pro adds them, arXiv 2401.02415), so at
first it adds nothing.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from xwam.config import ModelConfig
from xwam.model.xwam import init_weight

READS_NO_STREAM = re.compile(r"(patch_embedding|(text_embedding|action_encoder|proprio_encoder|time_embedding)\.0)\.")
WRITES_NO_STREAM = re.compile(r"(head|extra_heads\.0)\.head\.|(action_decoder|proprio_decoder)\.2\.")
SIZES = ("width", "ffn_width", "num_heads", "num_blocks", "num_depth_blocks", "sinusoid_width")  # that may grow
LAST_LAYERS = re.compile(r"(self_attn\.o|cross_attn\.o|ffn\.2)\.")  # of a block: what it adds to the stream


class Origin(NamedTuple):
    """Where a block of the larger model comes from."""

    block: int  # of the smaller one
    is_new: bool  # it adds nothing yet


class Named(NamedTuple):
    """A tensor of the larger model and the one that it comes from."""

    name: str
    source: str
    is_silent: bool  # it belongs to the last layer of a new block


def check_grows(old: ModelConfig, new: ModelConfig) -> None:
    """Raise ValueError, naming what is wrong, unless a model of ``new`` can hold one of ``old``."""
    times, rest = divmod(new.width, old.width)
    if rest or new.num_heads != times * old.num_heads:
        raise ValueError(f"{_pair(old, new, 'width')}, {_pair(old, new, 'num_heads')}: must be one multiple of both.")
    if new.sinusoid_width % old.sinusoid_width:
        raise ValueError(f"{_pair(old, new, 'sinusoid_width')}: must be a multiple.")
    if new.ffn_width < times * old.ffn_width:
        raise ValueError(f"{_pair(old, new, 'ffn_width')}: must be at least {times * old.ffn_width}.")
    if old.has_depth != new.has_depth:
        raise ValueError(f"{_pair(old, new, 'num_depth_blocks')}: both must have a depth branch, or none.")
    if not all(after >= before for before, after in zip(_groups(old), _groups(new), strict=True)):
        raise ValueError(
            f"{_pair(old, new, 'num_blocks')}, {_pair(old, new, 'num_depth_blocks')}: "
            "neither those with a depth block beside them nor those before may become fewer."
        )
    sizes = {name: getattr(new, name) for name in (*SIZES, "num_views", "state_width", "action_width")}
    for name, value in vars(replace(old, **sizes)).items():
        if value != getattr(new, name):
            raise ValueError(f"{_pair(old, new, name)}: must be the same.")


def grown(
    weights: Mapping[str, Tensor], old: ModelConfig, new: ModelConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """The weights of a model of the sizes ``new``, in float32, that computes what the one of ``old`` computes.

    Views and widths of states and actions stay those of ``old``. Raises ValueError as ``check_grows`` does.
    """
    check_grows(old, new)
    larger: dict[str, Tensor] = {}
    for name, source, is_silent in _names(weights, old, new):
        tensor = weights[source].float()
        tensor = torch.zeros_like(tensor) if is_silent else tensor
        tensor = _widened(name, tensor, new.width // old.width, generator)
        if name == "time_embedding.0.weight":
            tensor = _among_finer_waves(tensor, new.sinusoid_width)
        elif ".ffn." in name:
            tensor = _with_more_hidden(name, tensor, new, generator)
        larger[name] = tensor.contiguous()
    return larger


def _names(weights: Mapping[str, Tensor], old: ModelConfig, new: ModelConfig) -> Iterator[Named]:
    """Every tensor of the larger model, by name."""
    (first, branched), (more_first, more_branched) = _groups(old), _groups(new)
    depth = _spread(branched, more_branched)
    main = [*_spread(first, more_first), *(Origin(first + block, is_new) for block, is_new in depth)]
    for name in weights:
        if not name.startswith(("blocks.", "extra_blocks.")):
            yield Named(name, name, False)
    for stack, origins in (("blocks", main), ("extra_blocks.0", depth)):
        for index, (block, is_new) in enumerate(origins):
            prefix = f"{stack}.{block}."
            for name in weights:
                if name.startswith(prefix):
                    rest = name.removeprefix(prefix)
                    yield Named(f"{stack}.{index}.{rest}", name, is_new and bool(LAST_LAYERS.match(rest)))


def _groups(config: ModelConfig) -> tuple[int, int]:
    """How many blocks have no depth block beside them, and how many have."""
    return config.num_blocks - config.num_depth_blocks, config.num_depth_blocks


def _spread(old: int, new: int) -> list[Origin]:
    """``old`` blocks in order among ``new`` ones, each followed by its silent copies."""
    places = [block * new // old for block in range(old)]
    origins, block = [], 0
    for index in range(new):
        is_old = index in places
        block = places.index(index) if is_old else block
        origins.append(Origin(block, is_new=not is_old))
    return origins


def _widened(name: str, weight: Float[Tensor, "..."], times: int, generator: torch.Generator) -> Float[Tensor, "..."]:
    """One tensor for ``times`` copies of the stream.

    Rows are what a matrix writes: repeated, if it writes the stream. Columns are what it reads: split, if it reads the
    stream. Vectors and tables lie along what is written.
    """
    writes, reads = not WRITES_NO_STREAM.match(name), not READS_NO_STREAM.match(name)
    if weight.ndim == 1 or name.endswith(("modulation", "view_embedding.weight")):
        return _repeated(name, weight, weight.ndim - 1, times) if writes else weight
    weight = _repeated(name, weight, 0, times) if writes else weight
    return _split(weight, times, generator) if reads else weight


def _repeated(name: str, weight: Float[Tensor, "..."], axis: int, times: int) -> Float[Tensor, "..."]:
    """Copies side by side; the time projection holds six rows of the stream's width, each repeated by itself."""
    rows = weight.unflatten(axis, (6 if name.startswith("time_projection") else 1, -1))
    return torch.cat([rows] * times, dim=axis + 1).flatten(axis, axis + 1)


def _split(weight: Float[Tensor, "out in"], times: int, generator: torch.Generator) -> Float[Tensor, "out more"]:
    """Columns for every copy of what is read: an equal share, and a random part; these parts add up to nothing."""
    if times == 1:
        return weight
    share = weight / times
    parts = torch.randn((len(weight), times, weight.shape[1]), generator=generator) * share.square().mean().sqrt()
    return (share[:, None] + parts - parts.mean(dim=1, keepdim=True)).flatten(1)


def _among_finer_waves(weight: Float[Tensor, "D S"], wanted: int) -> Float[Tensor, "D more"]:
    """Columns of cosines, then sines: the old waves are every n-th of the new ones, which count for nothing yet."""
    waves = weight.unflatten(1, (2, -1, 1))
    finer = torch.zeros(*waves.shape[:3], wanted // weight.shape[1])
    finer[..., :1] = waves
    return finer.flatten(1)


def _with_more_hidden(
    name: str, weight: Float[Tensor, "..."], config: ModelConfig, generator: torch.Generator
) -> Float[Tensor, "..."]:
    """The ffn's tensors with new hidden numbers, drawn anew; what reads them is zero."""
    axis = 1 if name.endswith("ffn.2.weight") else 0
    num_new = 0 if name.endswith("ffn.2.bias") else config.ffn_width - weight.shape[axis]
    shape = (*weight.shape[:axis], num_new, *weight.shape[axis + 1 :])
    extra = torch.zeros(shape)
    if num_new and axis == 0:
        init_weight(name, extra, config.width, generator)
    return torch.cat([weight, extra], dim=axis)


def _pair(old: ModelConfig, new: ModelConfig, name: str) -> str:
    return f"{name}={getattr(new, name)}, start has {getattr(old, name)}"
