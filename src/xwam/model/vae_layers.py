"""Layers of the library's video autoencoder, doing the same sums with less work. ``lighten`` puts them in place.

Nothing else changes: names and shapes of the weights, and the answers but for rounding.
"""

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm
from torch import Tensor, nn
from torch.nn import functional

Sizes = tuple[int, ...]
SMALLEST_SQUARE = 1e-24  # of a norm; the library divides by 1e-12 at least


def lighten(vae: nn.Module) -> None:
    """Exchange the library's causal convolutions and norms in place, weights and all."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.__class__ = CausalConv3d
        elif isinstance(module, WanRMS_norm):
            module.__class__ = RmsNorm


class CausalConv3d(WanCausalConv3d):
    """The library's causal convolution, without multiplying or copying zeros.

    The zeros that stand for the time before frame 0 are left out where a chunk is a single frame: it sees the last
    slice of the kernel alone, a third of the work. The zeros around a picture are the convolution's own.
    """

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        """As in the library: ``cache_x`` holds the last frames of the chunk before."""
        padding = (int(self._padding[2]), int(self._padding[0]))  # rows, columns; the same on both sides
        missing = int(self._padding[4])  # frames before the first one
        if cache_x is None and x.shape[2] == 1 and missing == self.kernel_size[0] - 1 > 0:
            frame = functional.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, self.stride[1:], padding)
            return frame[:, :, None]
        if cache_x is not None and missing:
            x, missing = torch.cat([cache_x, x], dim=2), missing - cache_x.shape[2]
        if missing:
            x = functional.pad(x, (0, 0, 0, 0, missing, 0))
        return _convolved(x, self.weight, self.bias, self.stride, (0, *padding))


class RmsNorm(WanRMS_norm):
    """The library's norm over channels. Its own call (``normalize``) takes ten times as long on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels of ``x``, in float32 or wider."""
        axis = 1 if self.channel_first else -1
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        if x.device.type == "cuda":  # one kernel instead of six, and it wants the channels last
            unit = functional.rms_norm(exact.movedim(axis, -1), (x.shape[axis],), eps=SMALLEST_SQUARE)
            return unit.movedim(-1, axis).to(x.dtype) * self.gamma + self.bias
        norm = exact.square().sum(axis, keepdim=True).clamp_min(SMALLEST_SQUARE).sqrt()
        return (exact * (self.scale / norm)).to(x.dtype) * self.gamma + self.bias


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes) -> Tensor:
    """``conv3d``. For a single small film in float32 on a CPU torch picks a slow loop, so oneDNN is asked by name.

    Compilers cannot see through that call; they get the plain one.
    """
    is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if is_plain and len(x) == 1 and torch.backends.mkldnn.is_available() and not torch.compiler.is_compiling():
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    return functional.conv3d(x, weight, bias, stride, padding)
