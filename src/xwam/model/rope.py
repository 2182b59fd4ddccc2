"""Rotary positions on three axes: time, rows, columns.

Every pair of numbers ``(a, b)`` of a query or key is turned by ``angle = position * 10000^(-2i/n)``, with ``i``
counting the pairs of one axis and ``n`` the numbers that the axis owns. Of ``K`` numbers per head, rows and columns own
``2 (K // 6)`` each and time owns the rest. Pairs are neighbours (interleaved).

Video tokens sit at (latent frame, row, column), the same for every view. Actions and states live on the time axis
only, at fractions of a latent frame: action ``j`` at ``j / (frames_per_latent * actions_per_frame)``, state ``j`` at
``j / frames_per_latent``. So state ``j`` and the actions after it stand where video frame ``j`` stands.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from xwam.config import ModelConfig
from xwam.model.tokens import Grid

THETA = 10000.0


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles."""

    cos: Float[Tensor, "L pairs"]
    sin: Float[Tensor, "L pairs"]

    def first(self, num_tokens: int) -> "Rotation":
        """The rotation of the leading tokens only."""
        return Rotation(self.cos[:num_tokens], self.sin[:num_tokens])


def positions(grid: Grid, frames_per_latent: int, actions_per_frame: int) -> Float[Tensor, "L 3"]:
    """Where each token sits on (time, row, column), in the order video, action, state; float64."""
    frame, _, row, column = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in (grid.frames, grid.views, grid.rows, grid.columns)),
        indexing="ij",
    )
    video = torch.stack([frame, row, column], dim=-1).reshape(-1, 3)
    action_time = torch.arange(grid.actions, dtype=torch.float64) / (frames_per_latent * actions_per_frame)
    state_time = torch.arange(grid.states, dtype=torch.float64) / frames_per_latent
    time = torch.cat([action_time, state_time])
    return torch.cat([video, torch.stack([time, torch.zeros_like(time), torch.zeros_like(time)], dim=-1)])


def angles(position: Float[Tensor, "L 3"], head_width: int) -> Float[Tensor, "L pairs"]:
    """Angle in radians of every token and pair; float64."""
    space = 2 * (head_width // 6)
    axes = []
    for axis, width in enumerate((head_width - 2 * space, space, space)):
        frequency = THETA ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        axes.append(position[:, axis, None] * frequency)
    return torch.cat(axes, dim=-1)


def rotation(grid: Grid, config: ModelConfig, device: torch.device) -> Rotation:
    """The table of one sequence layout; built once per layout and device."""
    rates = (config.frames_per_latent, config.actions_per_frame)
    return Rotation(*_constant_table(tuple(grid), config.width // config.num_heads, rates, device))


@torch.compiler.assume_constant_result  # a compiled model holds the table instead of building it at every call
def _constant_table(
    grid: tuple[int, ...], head_width: int, rates: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    return _table(grid, head_width, rates, device)


@lru_cache(maxsize=64)
def _table(
    grid: tuple[int, ...], head_width: int, rates: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    # Remembered, so built neither as an inference tensor nor on a caller's default device.
    with torch.inference_mode(False), torch.device("cpu"):
        angle = angles(positions(Grid(*grid), *rates), head_width)
        return angle.cos().float().to(device), angle.sin().float().to(device)


def rotate(x: Float[Tensor, "B L N K"], by: Rotation) -> Float[Tensor, "B L N K"]:
    """Turn every pair of neighbours of ``x`` by its token's angle, in the precision of ``x``, at least float32."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = by.cos[:, None], by.sin[:, None]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
