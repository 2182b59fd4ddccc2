"""Exact operation counts of every stage, without running anything: shapes alone pass through the real networks.

A multiply-add is two operations. Counted are matrix products, attention products and convolutions as they are written
(``torch.utils.flop_counter``); the zeros that a convolution pads with count as they do there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import ByT5Tokenizer

from xwam.config import Config, DenoiseConfig
from xwam.model.prompt import SHORT
from xwam.model.text import TextEncoder
from xwam.model.vae import VideoVae
from xwam.model.xwam import XWAM

Shape = tuple[int, int, int]
"""Rows, inner size and columns of a matrix product."""


class Operations(NamedTuple):
    """Operations of each stage of one request."""

    image_encode: int  # one frame per camera
    text: int  # the encoder, once per instruction
    prompt: int  # keys and values of every block, once per instruction
    step: int  # one denoising step
    step_with_depth: int
    last_action_step: int  # without the video's head
    decode: int  # all views, video and depth

    def actions(self, steps: DenoiseConfig) -> int:
        """From the observation to the actions, instruction known."""
        return self.image_encode + (steps.num_action_steps - 1) * self.step + self.last_action_step

    def world(self, steps: DenoiseConfig) -> int:
        """From the actions to the latents of the world."""
        later = steps.num_video_steps - steps.num_action_steps
        plain = later if steps.depth_at_zero else later - 1
        return plain * self.step + self.step_with_depth

    def request(self, steps: DenoiseConfig) -> int:
        """The whole 4D request, instruction known."""
        return self.image_encode + steps.num_action_steps * self.step + self.world(steps) + self.decode


def count_operations(config: Config, batch_size: int = 1, prompt_length: int | None = None) -> Operations:
    """Count all stages of a preset. ``prompt_length``: rows of the prompt; by default its padding is merged."""
    with torch.device("meta"), torch.no_grad():
        model, vae = XWAM(config.model), VideoVae(config.vae)
        text = TextEncoder(config.text, config.model.text_length, ByT5Tokenizer())
        clip, sizes = config.clip, config.model
        length = prompt_length or min(SHORT, sizes.text_length)
        pictures = torch.empty(batch_size * sizes.num_views, 3, 1, clip.height_px, clip.width_px)
        latents = torch.empty(1, sizes.latent_channels, config.num_latent_frames, *config.latent_grid)
        ids = torch.zeros(batch_size, sizes.text_length, dtype=torch.int64)
        inputs = inputs_of(config, batch_size, torch.device("meta"))
        prompt = model.prompt_keys_values(torch.empty(batch_size, length, sizes.text_width))
        num_branches = 2 if sizes.has_depth else 1
        step = count(lambda: model(*inputs, prompt))
        return Operations(
            image_encode=count(lambda: vae.encode(pictures)),
            text=count(lambda: text.model(input_ids=ids)),
            prompt=count(lambda: model.prompt_keys_values(torch.empty(batch_size, length, sizes.text_width))),
            step=step,
            step_with_depth=count(lambda: model(*inputs, prompt, depth=True)) if num_branches == 2 else step,
            last_action_step=count(lambda: model(*inputs, prompt, actions_only=True)),
            decode=batch_size * num_branches * sizes.num_views * count(lambda: vae.decode(latents)),
        )


def inputs_of(config: Config, batch_size: int, device: torch.device, seed: int = 0) -> tuple[Tensor, ...]:
    """Random latents, states, actions and their levels, in the shapes of a preset."""
    clip, sizes = config.clip, config.model
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn((batch_size, *shape), device=device, generator=generator)

    grid = (config.num_latent_frames, sizes.num_views, *config.latent_grid)
    levels = (torch.full((batch_size,), sigma, dtype=torch.float64, device=device) for sigma in (0.978, 0.833))
    return (
        normal(sizes.latent_channels, *grid),
        normal(clip.num_states, sizes.state_width),
        normal(clip.action_horizon, sizes.action_width),
        *levels,
    )


def count(function: Callable[[], Any]) -> int:
    """Operations of a call on the meta device."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def product_shapes(config: Config) -> list[Shape]:
    """The shapes of the matrix products of a denoising step, largest first, each once; attention left out."""
    with torch.device("meta"), torch.no_grad(), _watched() as seen:
        model = XWAM(config.model)
        prompt = model.prompt_keys_values(torch.empty(1, 8, config.model.text_width))
        seen.clear()
        model(*inputs_of(config, 1, torch.device("meta")), prompt)
    return sorted(set(seen), key=lambda shape: -shape[0] * shape[1] * shape[2])


@contextmanager
def _watched() -> Iterator[list[Shape]]:
    seen: list[Shape] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
                left, right = args[-2:]
                seen.append((left.shape[0], left.shape[1], right.shape[1]))
            return func(*args, **(kwargs or {}))

    with Watch():
        yield seen
