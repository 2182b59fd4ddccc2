"""X-WAM: one diffusion transformer over video, action and state tokens, with a depth branch (arXiv 2604.26694).

In: noisy latents, states and actions, the noise level of each sample's video and actions, and the prompt. Out: the
velocities ``noise - clean`` of video, state and action and, if asked for, the clean depth latents.

Two kinds of tokens have level 0 whatever the levels say: the given (leading) frames, states and actions.
The names of the weights are those of the release.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from xwam.config import ModelConfig
from xwam.model import depth_branch, rope, tokens
from xwam.model.layers import Block, Head, WideMlp, gelu_mlp, wide
from xwam.model.prompt import PromptKeysValues
from xwam.tensors import Velocity

LONGEST_PERIOD = 10000.0  # of the timestep's sinusoids, in units of 2 pi


class TimeRows(NamedTuple):
    """The time embedding of a sample's three levels (video, action, clean), for the heads and for the blocks."""

    head: Float[Tensor, "B 3 D"]
    block: Float[Tensor, "B 3 6 D"]


class XWAM(nn.Module):
    """The network. One size for all: only the numbers of the config differ."""

    blocks: Sequence[Block]
    extra_blocks: Sequence[Sequence[Block]]
    extra_heads: Sequence[Head]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, patch = config.width, config.patch_size
        numbers = config.latent_channels * patch[0] * patch[1] * patch[2]
        self.config = config
        self.patch_embedding = nn.Conv3d(config.latent_channels, width, patch, stride=patch)
        self.view_embedding = nn.Embedding(config.num_views, width)
        self.text_embedding = gelu_mlp(config.text_width, width, width)
        self.time_embedding = WideMlp(nn.Linear(config.sinusoid_width, width), nn.SiLU(), nn.Linear(width, width))
        self.time_projection = WideMlp(nn.SiLU(), nn.Linear(width, 6 * width))
        self.action_encoder = gelu_mlp(config.action_width, width, width)
        self.action_decoder = gelu_mlp(width, width, config.action_width)
        self.proprio_encoder = gelu_mlp(config.state_width, width, width)
        self.proprio_decoder = gelu_mlp(width, width, config.state_width)
        self.blocks = _modules(self._block() for _ in range(config.num_blocks))
        self.head = Head(width, numbers)
        if config.has_depth:
            self.extra_blocks = _modules([_modules(self._block() for _ in range(config.num_depth_blocks))])
            self.extra_heads = _modules([Head(width, numbers)])

    def forward(
        self,
        video: Float[Tensor, "B C F V h w"],
        state: Float[Tensor, "B Ts Ds"],
        action: Float[Tensor, "B Ta Da"],
        video_sigma: Float[Tensor, " B"],
        action_sigma: Float[Tensor, " B"],
        prompt: PromptKeysValues,
        *,
        given_frames: int | Int[Tensor, " V"] = 1,
        given_states: int = 1,
        given_actions: int | Int[Tensor, " B"] = 0,
        depth: bool = False,
        actions_only: bool = False,
        views: Int[Tensor, " V"] | None = None,
    ) -> Velocity:
        """Noise levels in [0, 1]. ``views``: rows of the view embedding, by default the first ``V``.

        ``actions_only`` leaves the video out of the answer; it changes no other number.
        """
        grid = tokens.grid_of(video, state, action, self.config.patch_size)
        num_video, num_action, num_state = grid.sections
        rotation = rope.rotation(grid, self.config, video.device)
        levels = tokens.token_levels(grid, given_frames, given_states, given_actions, video.device)
        time = self.time_rows(video_sigma, action_sigma)

        x = [self.embed_video(video, views), self.action_encoder(action), self.proprio_encoder(state)]
        x, depth_x = torch.cat([wide(part) for part in x], dim=1), None
        blocks, depth_blocks = list(self.blocks), self.depth_blocks if depth else []
        num_first = len(blocks) - len(depth_blocks)
        for block, text in zip(blocks[:num_first], prompt.blocks[:num_first], strict=True):
            x, _ = block(x, time.block, levels, rotation, text)
        if depth:
            x, depth_x = depth_branch.run_last_blocks(
                blocks[num_first:], depth_blocks, x, num_video,
                time.block, levels, rotation, prompt.blocks[num_first:], prompt.depth_blocks,
            )  # fmt: skip

        video_x, action_x, state_x = x.split([num_video, num_action, num_state], dim=1)
        return Velocity(
            video=None if actions_only else self.latents(self.head, video_x, time, levels, grid),
            depth=None if depth_x is None else self.latents(self.extra_heads[0], depth_x, time, levels, grid),
            state=wide(self.proprio_decoder(state_x)),
            action=wide(self.action_decoder(action_x)),
        )

    @property
    def depth_blocks(self) -> list[Block]:
        """The blocks of the depth branch. Raises ValueError where there is none."""
        if not self.config.has_depth:
            raise ValueError("num_depth_blocks=0: this model has no depth branch; do not ask it for depth.")
        return list(self.extra_blocks[0])

    def prompt_keys_values(
        self, context: Float[Tensor, "B P Dt"], bias: Float[Tensor, "B P"] | None = None
    ) -> PromptKeysValues:
        """All that depends on the encoded prompt alone: compute it once, pass it to every call.

        ``bias``: what merging its padding (model/prompt.py) adds to the attention's logits.
        """
        x, bias = self.text_embedding(context), None if bias is None else bias[:, None, None]
        depth_blocks = self.depth_blocks if self.config.has_depth else []
        return PromptKeysValues(
            blocks=tuple(block.prompt_keys_values(x, bias) for block in self.blocks),
            depth_blocks=tuple(block.prompt_keys_values(x, bias) for block in depth_blocks),
        )

    def embed_video(
        self, video: Float[Tensor, "B C F V h w"], views: Int[Tensor, " V"] | None
    ) -> Float[Tensor, "B L D"]:
        """Video tokens: patches through the kernel (its stride is its size, so it is a matrix), plus their view."""
        kernel = self.patch_embedding.weight
        patches = tokens.patchify(video, self.config.patch_size).to(kernel.dtype)
        x = wide(functional.linear(patches, kernel.flatten(1), self.patch_embedding.bias))
        num_views = video.shape[3]
        if views is None and num_views > self.config.num_views:
            raise ValueError(f"{num_views} views: this model knows {self.config.num_views}.")
        rows = self.view_embedding.weight[:num_views] if views is None else self.view_embedding(views)
        x = x.unflatten(1, (video.shape[2] // self.config.patch_size[0], num_views, -1))
        return (x + wide(rows)[:, None]).flatten(1, 3)

    def time_rows(self, video_sigma: Float[Tensor, " B"], action_sigma: Float[Tensor, " B"]) -> TimeRows:
        """Embed the three levels of every sample."""
        sigma = torch.stack([video_sigma, action_sigma, torch.zeros_like(video_sigma)], dim=1)
        timestep = 1000 * sigma.double()
        head = self.time_embedding(sinusoid(timestep, self.config.sinusoid_width).to(wide(sigma).dtype))
        return TimeRows(head, self.time_projection(head).unflatten(-1, (6, -1)))

    def latents(
        self, head: Head, x: Float[Tensor, "B L D"], time: TimeRows, levels: Int[Tensor, "rows all"], grid: tokens.Grid
    ) -> Float[Tensor, "B C F V h w"]:
        """Video tokens through a head, put together."""
        return tokens.unpatchify(head(x, time.head, levels[:, : x.shape[1]]), grid, self.config.patch_size)

    def _block(self) -> Block:
        return Block(self.config.width, self.config.ffn_width, self.config.num_heads)


def all_blocks(model: XWAM) -> list[Block]:
    """The main blocks and, where there are any, those of the depth branch."""
    return [*model.blocks, *(model.depth_blocks if model.config.has_depth else [])]


def _modules(modules: Iterable[nn.Module]) -> Any:
    """A ModuleList, of which a type checker believes what the class says."""
    return nn.ModuleList(modules)


def sinusoid(timestep: Float[Tensor, "*any"], width: int) -> Float[Tensor, "*any width"]:
    """Cosines, then sines, of ``timestep * LONGEST_PERIOD^(-i / (width / 2))``; in the precision of ``timestep``."""
    half = width // 2
    exponent = torch.arange(half, dtype=timestep.dtype, device=timestep.device) / half
    angle = timestep.unsqueeze(-1) * LONGEST_PERIOD**-exponent
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


@torch.no_grad()
def init_weights(model: XWAM, generator: torch.Generator) -> None:
    """Draw all weights anew, on the generator's device.

    What X-WAM adds to Wan is drawn as published: view embedding, action and state MLPs and the depth head
    normal(0, 0.02), modulation tables normal(0, 1 / sqrt(D)). Wan's own matrices: embeddings and head normal(0, 0.02),
    all others Xavier. Norms start at 1, biases at 0. (A start from Wan's weights is made by ``convert.py``; its depth
    blocks are copies of the last ones.)
    """
    for name, weight in model.named_parameters():
        init_weight(name, weight, model.config.width, generator)


@torch.no_grad()
def init_weight(name: str, weight: Float[Tensor, "*any"], width: int, generator: torch.Generator) -> None:
    """Draw one tensor anew, by its name, as init_weights says; ``width`` is the model's ``D``."""
    small = ("view_embedding", "action_", "proprio_", "text_embedding", "time_embedding", "head", "extra_heads")
    if name.endswith("bias"):
        weight.zero_()
    elif name.endswith("modulation"):
        weight.normal_(0, width**-0.5, generator=generator)
    elif weight.ndim == 1:
        weight.fill_(1)
    elif name.startswith(small):
        weight.normal_(0, 0.02, generator=generator)
    else:
        nn.init.xavier_uniform_(weight.flatten(1), generator=generator)
