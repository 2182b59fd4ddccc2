"""Encoded clips of known content for the training tests."""

import importlib.util
from pathlib import Path

import torch

from tests.examples import make_cameras, make_normalizer
from xwam.config import Config
from xwam.model.text import TextEncoder
from xwam.model.vae import VideoVae
from xwam.model.weights import save_weights
from xwam.model.xwam import XWAM, init_weights
from xwam.tensors import Batch
from xwam.train import checkpoint


class EncodedClips:
    """Latents, states and actions drawn once from a seed: fixed data, as a cache would give."""

    fingerprint = "example"
    source_names = ("even", "odd")

    def __init__(self, config: Config, size: int, spread: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(1)
        model, clip = config.model, config.clip
        frames = 1 + (clip.num_frames - 1) // 4
        grid = (model.latent_channels, frames, model.num_views, clip.height_px // 16, clip.width_px // 16)

        def normal(*shape: int) -> torch.Tensor:
            return spread * torch.randn((size, *shape), generator=generator)

        self.empty_prompt = torch.zeros(model.text_length, model.text_width)
        action = normal(clip.action_horizon, model.action_width)
        self._all = Batch(
            video=normal(*grid),
            depth=normal(*grid),
            state=normal(clip.num_states, model.state_width),
            action=action,
            video_mask=torch.ones(size, frames, model.num_views, dtype=torch.bool),
            depth_mask=torch.ones(size, frames, model.num_views, dtype=torch.bool),
            state_mask=torch.ones(size, clip.num_states, model.state_width, dtype=torch.bool),
            action_mask=torch.ones(size, clip.action_horizon, model.action_width, dtype=torch.bool),
            executed=action,
            prompt=normal(model.text_length, model.text_width),
        )

    def __len__(self) -> int:
        return len(self._all.video)

    def batch(self, indices, visit: int) -> Batch:
        return Batch(*(tensor[torch.from_numpy(indices)] for tensor in self._all))

    def sources(self, indices):
        return indices % 2


def write_checkpoint(root: Path, config: Config, robot: checkpoint.Robot | None = None) -> Path:
    """A checkpoint with random weights, every file as training writes it: ``root/whole``."""
    write_frozen(root / "frozen", config)
    model = XWAM(config.model)
    init_weights(model, torch.Generator().manual_seed(0))
    with torch.no_grad():  # a head that starts at zero would hide the network behind it
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    robot = robot or checkpoint.Robot(make_normalizer(), make_cameras(config))

    def fill(target: Path) -> None:
        checkpoint.save_policy_files(target, config, robot, root / "frozen", {"steps": 0})
        save_weights(target / "model.safetensors", model.state_dict())

    checkpoint.write_whole(root / "whole", fill)
    return root / "whole"


def hide(monkeypatch, package: str) -> None:
    """As if a package were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))


def write_frozen(folder: Path, config: Config) -> None:
    """A VAE and a text encoder with random weights."""
    torch.manual_seed(0)
    VideoVae(config.vae).save(folder / "vae")
    TextEncoder(config.text, config.model.text_length).save(folder / "text")
