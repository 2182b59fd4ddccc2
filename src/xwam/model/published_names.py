"""Published tensors under our names: which is copied from where, which is new. Nothing is read or written here.

The published checkpoint holds the whole training module: network, VAE and text encoder, told apart by prefix. The
network's names are ours already; VAE and text encoder go through their name maps. Every tensor is accounted for:
what is unexpected, missing or of another shape is an error that names it.
"""

import re
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import ByT5Tokenizer

from xwam.config import ModelConfig, TextConfig, VaeConfig
from xwam.model.shards import Drawn, Source
from xwam.model.stored import Stored, row_major
from xwam.model.text import TextEncoder, transformers_name
from xwam.model.vae import WAN22_LATENT_MEAN, WAN22_LATENT_STD, VideoVae, diffusers_name
from xwam.model.weights import check_names, shorten
from xwam.model.xwam import XWAM, init_weight

PREFIXES = {"transformer": "model.", "vae": "vae.model.", "text": "text_encoder.model."}
LATENT_STATS = {"vae.mean": "latent_mean", "vae.std": "latent_std"}
FIRST_NAME = f"{PREFIXES['transformer']}patch_embedding.weight"  # shows what stands before all prefixes
COMPILED = "_orig_mod."  # torch.compile puts this into names
NEW_PARTS = ("view_embedding.", "action_", "proprio_", "extra_heads.")  # drawn, not copied from Wan
DEPTH_BLOCK = re.compile(r"extra_blocks\.0\.(\d+)\.(.*)")


class Release(NamedTuple):
    """A published checkpoint's tensors, prefixes taken off."""

    transformer: dict[str, Stored]
    vae: dict[str, Stored]
    text: dict[str, Stored]
    latent_stats: dict[str, Stored]


def split_release(tensors: Mapping[str, Stored]) -> Release:
    """Tell network, VAE and text encoder apart. Raises ValueError naming what belongs to none of them."""
    tensors = {name.replace(COMPILED, ""): tensor for name, tensor in tensors.items()}
    before = [name.removesuffix(FIRST_NAME) for name in tensors if name.endswith(FIRST_NAME)]
    if len(before) != 1:
        raise ValueError(
            f"{len(before)} tensors are called …{FIRST_NAME}: one is expected. The names are {shorten(list(tensors))}."
        )
    parts: dict[str, dict[str, Stored]] = {part: {} for part in (*PREFIXES, "latent_stats")}
    unexpected = []
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(before[0])
        part = next((part for part, prefix in PREFIXES.items() if name.startswith(prefix)), None)
        if not full_name.startswith(before[0]) or (part is None and name not in LATENT_STATS):
            unexpected.append(full_name)
        elif part is None:
            parts["latent_stats"][LATENT_STATS[name]] = tensor
        else:
            parts[part][name.removeprefix(PREFIXES[part])] = tensor
    if unexpected:
        raise ValueError(f"{len(unexpected)} unexpected tensors: {shorten(unexpected)}. Is it the right checkpoint?")
    return Release(**parts)


def shapes_of(tensors: Mapping[str, Source]) -> dict[str, tuple[int, ...]]:
    """The shapes alone."""
    return {name: tensor.shape for name, tensor in tensors.items()}


def transformer_tensors(tensors: Mapping[str, Stored], config: ModelConfig) -> dict[str, Source]:
    """The published network's tensors, in the model's order."""
    expected = _transformer_shapes(config)
    check_names(expected, shapes_of(tensors), where="network")
    return {name: tensors[name] for name in expected}


def transformer_tensors_from_wan(tensors: Mapping[str, Stored], config: ModelConfig, seed: int) -> dict[str, Source]:
    """Wan's own tensors, copies of its last blocks for the depth branch, and new ones drawn from ``seed``."""
    expected = _transformer_shapes(config)
    is_wan = {n: shape for n, shape in expected.items() if not n.startswith(NEW_PARTS) and not DEPTH_BLOCK.match(n)}
    check_names(is_wan, shapes_of(tensors), where="Wan's transformer")
    dtype = tensors["patch_embedding.weight"].dtype

    def source(name: str, shape: tuple[int, ...]) -> Source:
        if copy := DEPTH_BLOCK.match(name):
            block = config.num_blocks - config.num_depth_blocks + int(copy[1])
            return tensors[f"blocks.{block}.{copy[2]}"]
        if name in tensors:
            return tensors[name]
        return Drawn(dtype, shape, lambda: _draw(name, shape, dtype, config.width, seed))

    return {name: source(name, shape) for name, shape in expected.items()}


def vae_tensors(
    tensors: Mapping[str, Stored], config: VaeConfig, latent_stats: Mapping[str, Stored] | None = None
) -> dict[str, Source]:
    """The VAE under our names. Without ``latent_stats``: those published with Wan2.2 (48 channels)."""
    named: dict[str, Source] = {f"vae.{diffusers_name(name)}": tensor for name, tensor in tensors.items()}
    if latent_stats is None:
        named |= _published_latent_stats(config)
    else:  # published with axes of length one around the channels
        flat = {
            name: stat._replace(shape=(stat.num_bytes // stat.dtype.itemsize,)) for name, stat in latent_stats.items()
        }
        named |= {name: stat._replace(stride=row_major(stat.shape)) for name, stat in flat.items()}
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in VideoVae(config).state_dict().items()}
    check_names(expected, shapes_of(named), where="VAE")
    return {name: named[name] for name in expected}


def text_tensors(tensors: Mapping[str, Stored], config: TextConfig) -> dict[str, Source]:
    """The text encoder under our names."""
    named = {transformers_name(name): tensor for name, tensor in tensors.items()}
    with torch.device("meta"):
        encoder = TextEncoder(config, 1, tokenizer=ByT5Tokenizer())  # the tokenizer does not change the weights
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.model.named_parameters()}
    check_names(expected, shapes_of(named), where="text encoder")
    return {name: named[name] for name in expected}


def _transformer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in XWAM(config).state_dict().items()}


def _published_latent_stats(config: VaeConfig) -> dict[str, Source]:
    if config.latent_channels != len(WAN22_LATENT_MEAN):
        raise ValueError(f"latent_channels={config.latent_channels}: Wan2.2's VAE has {len(WAN22_LATENT_MEAN)}.")
    stats = {"latent_mean": torch.tensor(WAN22_LATENT_MEAN), "latent_std": torch.tensor(WAN22_LATENT_STD)}
    return {name: Drawn(stat.dtype, tuple(stat.shape), lambda stat=stat: stat) for name, stat in stats.items()}


def _draw(name: str, shape: tuple[int, ...], dtype: torch.dtype, width: int, seed: int) -> Tensor:
    """A new tensor; its numbers depend on its name and the seed alone, so an interrupted conversion goes on exactly."""
    tensor = torch.empty(shape)
    init_weight(name, tensor, width, torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(name.encode())))
    return tensor.to(dtype)
