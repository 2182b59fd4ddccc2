"""Where denoising starts: pure noise, drawn per request from its own seed."""

from collections.abc import Sequence

import torch

from xwam.config import Config
from xwam.tensors import Noisy


def start_noise(config: Config, seeds: Sequence[int], grid: tuple[int, int]) -> Noisy:
    """Pure noise per request from its own seed (CPU generator; video, then action, then state, as the release)."""
    model, clip = config.model, config.clip
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        video = torch.randn(
            (model.latent_channels, config.num_latent_frames, model.num_views, *grid), generator=generator
        )
        action = torch.randn((clip.action_horizon, model.action_width), generator=generator)
        state = torch.randn((clip.num_states, model.state_width), generator=generator)
        rows.append(Noisy(video=video, state=state, action=action))
    return Noisy(*(torch.stack(column) for column in zip(*rows, strict=True)))
