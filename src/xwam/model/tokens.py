"""One sequence ``[video | action | state]``: how it is laid out, cut into tokens and put together again.

Video tokens run frame-major, then view, then row, then column.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

VIDEO_LEVEL, ACTION_LEVEL, CLEAN_LEVEL = range(3)  # the three noise levels that exist in one sample


class Grid(NamedTuple):
    """How many tokens there are along every axis: of the video, of actions, of states."""

    frames: int
    views: int
    rows: int
    columns: int
    actions: int
    states: int

    @property
    def tokens_per_frame(self) -> int:
        """Video tokens of one latent frame, all views together."""
        return self.views * self.rows * self.columns

    @property
    def sections(self) -> tuple[int, int, int]:
        """Number of video, action and state tokens."""
        return self.frames * self.tokens_per_frame, self.actions, self.states


def grid_of(
    video: Float[Tensor, "B C F V h w"],
    state: Float[Tensor, "B Ts Ds"],
    action: Float[Tensor, "B Ta Da"],
    patch_size: tuple[int, int, int],
) -> Grid:
    """The layout of these tensors' sequence."""
    _, _, frames, views, rows, columns = video.shape
    depth, height, width = patch_size
    return Grid(frames // depth, views, rows // height, columns // width, action.shape[1], state.shape[1])


def patchify(
    video: Float[Tensor, "B C F V h w"], patch_size: tuple[int, int, int]
) -> Float[Tensor, "B tokens numbers"]:
    """Cut latents into patches; a patch's numbers are in the order of a Conv3d kernel (C, frame, row, column)."""
    p, q, r = patch_size
    return rearrange(video, "B C (F p) V (h q) (w r) -> B (F V h w) (C p q r)", p=p, q=q, r=r)


def unpatchify(
    patches: Float[Tensor, "B tokens numbers"], grid: Grid, patch_size: tuple[int, int, int]
) -> Float[Tensor, "B C F V h w"]:
    """Put latents together from what the head says of each patch; its numbers are (frame, row, column, C)."""
    p, q, r = patch_size
    return rearrange(
        patches, "B (F V h w) (p q r C) -> B C (F p) V (h q) (w r)",
        F=grid.frames, V=grid.views, h=grid.rows, w=grid.columns, p=p, q=q, r=r,
    )  # fmt: skip


def token_levels(
    grid: Grid,
    given_frames: int | Int[Tensor, " V"],
    given_states: int,
    given_actions: int | Int[Tensor, " B"],
    device: torch.device,
) -> Int[Tensor, "rows L"]:
    """Which of the three levels each token has; one row for the whole batch unless ``given_actions`` is a tensor."""
    given = given_actions[:, None] if isinstance(given_actions, Tensor) else given_actions
    frame, action, state = (torch.arange(n, device=device)[None] for n in (grid.frames, grid.actions, grid.states))
    view_level = torch.where(given_frames > frame.T, CLEAN_LEVEL, VIDEO_LEVEL).expand(-1, grid.views)
    video_level = view_level.reshape(1, -1, 1).expand(-1, -1, grid.rows * grid.columns).flatten(1)
    action_level = torch.where(action < given, CLEAN_LEVEL, ACTION_LEVEL)
    state_level = torch.where(state < given_states, CLEAN_LEVEL, ACTION_LEVEL)
    video_level, state_level = (level.expand(len(action_level), -1) for level in (video_level, state_level))
    return torch.cat([video_level, action_level, state_level], dim=1)


def per_token(rows: Float[Tensor, "B 3 D"], levels: Int[Tensor, "rows L"]) -> Float[Tensor, "B L D"]:
    """Hand each token the row of its level. A choice, not a gather: it fuses, and its gradient is a plain sum."""
    video, action, clean = rows.unsqueeze(2).unbind(1)
    level = levels.unsqueeze(-1)
    return torch.where(level == VIDEO_LEVEL, video, torch.where(level == ACTION_LEVEL, action, clean))
