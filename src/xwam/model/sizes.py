"""A model's numbers, read off the shapes of its published tensors."""

import re
from collections.abc import Mapping
from dataclasses import replace

from xwam.config import ModelConfig, TextConfig, VaeConfig

Shapes = Mapping[str, tuple[int, ...]]
BYTES_VOCABULARY = 384  # of the tokenizer that reads bytes; UMT5-XXL's pieces are 256384


def model_config(shapes: Shapes, base: ModelConfig, num_heads: int | None) -> ModelConfig:
    """The transformer's numbers. What shapes do not tell, or Wan alone does not have, is taken from ``base``.

    Without ``num_heads``, heads are as wide as those of ``base``: every published Wan has heads of 128.
    """
    width, channels, *patch = _shape(shapes, "patch_embedding.weight")
    head_width = base.width // base.num_heads
    if num_heads is None and width % head_width:
        raise ValueError(f"width={width} is no multiple of {head_width}: give the number of heads (num_heads).")
    config = replace(
        base,
        latent_channels=channels,
        patch_size=(patch[0], patch[1], patch[2]),
        width=width,
        ffn_width=_shape(shapes, "blocks.0.ffn.0.weight")[0],
        num_heads=num_heads or width // head_width,
        num_blocks=_count(shapes, r"blocks\.(\d+)\."),
        num_depth_blocks=0,
        sinusoid_width=_shape(shapes, "time_embedding.0.weight")[1],
        text_width=_shape(shapes, "text_embedding.0.weight")[1],
    )
    if "view_embedding.weight" not in shapes:  # Wan's own: the depth branch copies a third of the blocks, as published
        return replace(config, num_depth_blocks=config.num_blocks * base.num_depth_blocks // base.num_blocks)
    return replace(
        config,
        num_views=shapes["view_embedding.weight"][0],
        num_depth_blocks=_count(shapes, r"extra_blocks\.0\.(\d+)\."),
        action_width=_shape(shapes, "action_encoder.0.weight")[1],
        state_width=_shape(shapes, "proprio_encoder.0.weight")[1],
    )


def vae_config(shapes: Shapes) -> VaeConfig:
    """The numbers of a Wan2.2 autoencoder."""
    base_width = _shape(shapes, "encoder.conv1.weight")[0]
    num_levels = _count(shapes, r"encoder\.downsamples\.(\d+)\.")
    last = "encoder.downsamples.{}.downsamples.0.residual.6.weight"
    multipliers = tuple(_shape(shapes, last.format(level))[0] // base_width for level in range(num_levels))
    if not multipliers:
        raise ValueError("these weights have no encoder.downsamples: a Wan2.2 autoencoder is expected.")
    return VaeConfig(
        base_width=base_width,
        decoder_base_width=_shape(shapes, "decoder.conv1.weight")[0] // multipliers[-1],
        latent_channels=_shape(shapes, "conv2.weight")[0],
        width_multipliers=multipliers,
        num_res_blocks=_count(shapes, r"encoder\.downsamples\.0\.downsamples\.(\d+)\.residual\."),
    )


def text_config(shapes: Shapes) -> TextConfig:
    """The numbers of Wan's UMT5 encoder."""
    vocabulary, width = _shape(shapes, "token_embedding.weight")
    num_heads = _shape(shapes, "blocks.0.pos_embedding.embedding.weight")[1]
    return TextConfig(
        tokenizer="bytes" if vocabulary == BYTES_VOCABULARY else "sentencepiece",
        vocab_size=vocabulary,
        width=width,
        head_width=_shape(shapes, "blocks.0.attn.q.weight")[0] // num_heads,
        ffn_width=_shape(shapes, "blocks.0.ffn.fc1.weight")[0],
        num_blocks=_count(shapes, r"blocks\.(\d+)\."),
        num_heads=num_heads,
    )


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(
            f"these weights lack {name}; they have {', '.join(list(shapes)[:8])}, …: is it the right file?"
        )
    return shapes[name]


def _count(shapes: Shapes, pattern: str) -> int:
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})
