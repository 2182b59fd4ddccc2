"""The parts of the transformer: attention over the sequence, attention to the prompt, the block, the head.

The stream ``x`` that runs through the blocks is float32 (or wider) whatever the weights are; norms, modulation and
rotation work in it, matrix products in the weights' precision. Linear layers sit where the released weights' names
say, so ``self_attn.q.weight`` here is ``self_attn.q.weight`` there.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from xwam.model.rope import Rotation, rotate
from xwam.model.tokens import per_token

EPSILON = 1e-6  # of every norm


class KeysValues(NamedTuple):
    """What queries attend to."""

    keys: Float[Tensor, "B N L K"]
    values: Float[Tensor, "B N L K"]
    bias: Float[Tensor, "B 1 1 L"] | None = None  # added to the logits of every query


class Modulation(NamedTuple):
    """AdaLN: how the noise level bends one sublayer's input (shift, scale) and weighs its output (gate)."""

    shift: Float[Tensor, "B L D"]
    scale: Float[Tensor, "B L D"]
    gate: Float[Tensor, "B L D"]


def wide(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """``x`` in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def modulate(
    x: Float[Tensor, "B L D"], shift: Float[Tensor, "B L D"], scale: Float[Tensor, "B L D"]
) -> Float[Tensor, "B L D"]:
    """Layer norm without weights of its own, then scale and shift."""
    return functional.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale) + shift


def attention(query: Float[Tensor, "B N L K"], seen: KeysValues) -> Float[Tensor, "B L D"]:
    """Full softmax attention in the values' precision, heads merged: the one place where torch picks a kernel.

    On a CPU it works in float32 inside: torch's bf16 kernel there takes twice as long, forward and backward.
    """
    dtype = wide(seen.values).dtype if query.device.type == "cpu" else seen.values.dtype
    with _without_autocast(query.device):
        query, keys, values = (t.to(dtype) for t in (query, seen.keys, seen.values))
        bias = None if seen.bias is None else seen.bias.to(dtype)
        attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
    return rearrange(attended, "B N L K -> B L (N K)").to(seen.values.dtype)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    if device.type == "meta":  # only shapes are computed, and there is no autocast
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class Mlp(nn.Sequential):
    """Linear layers with activations between them, in the weights' precision."""

    def forward(self, x: Float[Tensor, "*any numbers"]) -> Float[Tensor, "*any out"]:
        """Map ``x``."""
        return super().forward(x.to(next(self.parameters()).dtype))


class WideMlp(nn.Sequential):
    """Linear layers with activations between them, in float32 or wider even if the weights are not."""

    def forward(self, x: Float[Tensor, "*any numbers"]) -> Float[Tensor, "*any out"]:
        """Map ``x``. Meant for a few rows: the weights are widened at every call."""
        with _without_autocast(x.device):
            for layer in self:
                if isinstance(layer, nn.Linear):
                    weight, bias = wide(layer.weight), wide(layer.bias)
                    x = functional.linear(x.to(weight.dtype), weight, bias)
                else:
                    x = layer(x)
        return x


def gelu_mlp(inside: int, hidden: int, out: int) -> Mlp:
    """Two linear layers around a tanh-approximated GELU."""
    return Mlp(nn.Linear(inside, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, out))


class RmsNorm(nn.Module):
    """Root-mean-square norm over the whole width, before heads are split; float32 or wider."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        """Normalise the last axis."""
        return functional.rms_norm(wide(x), self.weight.shape, wide(self.weight), EPSILON)


class LayerNorm(nn.Module):
    """Layer norm with weight and bias; float32 or wider."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        """Normalise the last axis."""
        return functional.layer_norm(wide(x), self.weight.shape, wide(self.weight), wide(self.bias), EPSILON)


class Attention(nn.Module):
    """The weights that both kinds of attention have."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = RmsNorm(width), RmsNorm(width)

    def heads(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L N K"]:
        """Split the width into heads."""
        return x.unflatten(-1, (self.num_heads, -1))


class SelfAttention(Attention):
    """Every token attends to every token; a depth token also to what its main block's tokens offer."""

    def forward(
        self, x: Float[Tensor, "B L D"], rotation: Rotation, also: KeysValues | None
    ) -> tuple[Float[Tensor, "B L D"], KeysValues]:
        """The attended values, and this layer's own rotated keys and values for whoever attends to them too."""
        x = x.to(self.q.weight.dtype)
        query = rotate(self.heads(self.norm_q(self.q(x))), rotation).transpose(1, 2)
        values = self.heads(self.v(x)).transpose(1, 2)
        keys = rotate(self.heads(self.norm_k(self.k(x))), rotation).transpose(1, 2).to(values.dtype)
        own = KeysValues(keys, values)
        seen = own
        if also is not None:
            seen = KeysValues(torch.cat([keys, also.keys], dim=2), torch.cat([values, also.values], dim=2))
        return self.o(attention(query, seen)), own


class CrossAttention(Attention):
    """Every token attends to the prompt, all of its positions."""

    def keys_values(self, context: Float[Tensor, "B P D"], bias: Float[Tensor, "B 1 1 P"] | None = None) -> KeysValues:
        """What the prompt offers: the same at every step, so computed once per prompt."""
        context = context.to(self.k.weight.dtype)
        values = self.heads(self.v(context)).transpose(1, 2)
        # Sharded weights cast their input by themselves, with torch before 2.13 the first layer's alone.
        keys = self.heads(self.norm_k(self.k(context.to(values.dtype)))).transpose(1, 2).to(values.dtype)
        return KeysValues(keys, values, bias)

    def forward(self, x: Float[Tensor, "B L D"], prompt: KeysValues) -> Float[Tensor, "B L D"]:
        """The attended values."""
        query = self.heads(self.norm_q(self.q(x.to(self.q.weight.dtype)))).transpose(1, 2)
        return self.o(attention(query, prompt))


class Block(nn.Module):
    """Self-attention, attention to the prompt, ffn; AdaLN on the first and the last."""

    def __init__(self, width: int, ffn_width: int, num_heads: int) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 6, width))
        self.self_attn = SelfAttention(width, num_heads)
        self.norm3 = LayerNorm(width)
        self.cross_attn = CrossAttention(width, num_heads)
        self.ffn = gelu_mlp(width, ffn_width, width)

    def modulations(
        self, time: Float[Tensor, "B 3 6 D"], levels: Int[Tensor, "rows L"]
    ) -> tuple[Modulation, Modulation]:
        """What each token's noise level does to self-attention and to the ffn."""
        rows = (wide(self.modulation) + time).unbind(2)
        return Modulation(*(per_token(r, levels) for r in rows[:3])), Modulation(
            *(per_token(r, levels) for r in rows[3:])
        )

    def prompt_keys_values(
        self, context: Float[Tensor, "B P D"], bias: Float[Tensor, "B 1 1 P"] | None = None
    ) -> KeysValues:
        """What this block reads of an (embedded) prompt."""
        return self.cross_attn.keys_values(context, bias)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        time: Float[Tensor, "B 3 6 D"],
        levels: Int[Tensor, "rows L"],
        rotation: Rotation,
        prompt: KeysValues,
        also: KeysValues | None = None,
    ) -> tuple[Float[Tensor, "B L D"], KeysValues]:
        """The stream after this block, and the block's own keys and values."""
        first, last = self.modulations(time, levels)
        attended, own = self.self_attn(modulate(x, first.shift, first.scale), rotation, also)
        x = x + first.gate * attended
        x = x + self.cross_attn(self.norm3(x), prompt)
        return x + last.gate * self.ffn(modulate(x, last.shift, last.scale)), own


class Head(nn.Module):
    """From a video token to the numbers of its patch."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 2, width))
        self.head = nn.Linear(width, out)

    def forward(
        self, x: Float[Tensor, "B L D"], time: Float[Tensor, "B 3 D"], levels: Int[Tensor, "rows L"]
    ) -> Float[Tensor, "B L out"]:
        """AdaLN, then a linear layer."""
        shift, scale = (wide(self.modulation) + time.unsqueeze(2)).unbind(2)
        x = modulate(x, per_token(shift, levels), per_token(scale, levels))
        return wide(self.head(x.to(self.head.weight.dtype)))
