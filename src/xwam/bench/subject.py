"""What is measured: a checkpoint, or a preset with random weights (as fast, but it says nothing)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import ByT5Tokenizer

from xwam.compile import made_up_observation
from xwam.config import Config
from xwam.model.device import device_of
from xwam.model.text import TextEncoder
from xwam.model.vae import VideoVae
from xwam.model.xwam import XWAM, init_weights
from xwam.policy import Networks, Policy, load_policy
from xwam.presets import PRESETS, preset
from xwam.records import Camera, Observation
from xwam.robot.layout import two_arm_layout
from xwam.robot.normalizer import Normalizer

INSTRUCTION = "press the button"


def open_subject(what: str, *, device: str, dtype: torch.dtype, seed: int) -> Policy:
    """``what``: a checkpoint folder or the name of a preset. Raises ValueError for neither."""
    if what in PRESETS:
        return random_policy(preset(what), device=device, dtype=dtype, seed=seed)
    if (Path(what) / "config.json").is_file():
        return load_policy(what, device=device, dtype=dtype)
    raise ValueError(f"subject={what!r}: neither a checkpoint folder nor a preset ({', '.join(PRESETS)}).")


def random_policy(config: Config, *, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> Policy:
    """A policy of a preset's sizes with random weights. Its text encoder reads bytes, whatever the preset says."""
    place = device_of(device)
    with torch.device("meta"):
        transformer = XWAM(config.model).to(dtype)
    transformer = transformer.to_empty(device=place)
    init_weights(transformer, torch.Generator(place).manual_seed(seed))
    torch.manual_seed(seed)
    with place:
        vae = VideoVae(config.vae).set_decoder_dtype(dtype)

    def text() -> TextEncoder:
        torch.manual_seed(seed)
        with place:
            return TextEncoder(config.text, config.model.text_length, ByT5Tokenizer())

    layout = two_arm_layout("random")
    state, action = np.ones(layout.state_width), np.ones(layout.action_width)
    normalizer = Normalizer(layout=layout, state_q01=-state, state_q99=state, action_q01=-action, action_q99=action)
    return Policy(config, normalizer, _cameras(config), Networks(transformer, vae, text), device=device)


def random_observation(policy: Policy, seed: int) -> Observation:
    """Noise as images; a hand at the origin, turned nowhere."""
    clip, rng = policy.config.clip, np.random.default_rng(seed)
    shape = (clip.height_px, clip.width_px, 3)
    images = {name: rng.integers(0, 256, shape, dtype=np.uint8) for name in policy.config.view_names}
    return replace(made_up_observation(policy, INSTRUCTION), images=images)


def _cameras(config: Config) -> dict[str, Camera]:
    width, height = config.clip.width_px, config.clip.height_px
    intrinsics = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    return {
        name: Camera(name=name, width=width, height=height, intrinsics=intrinsics, base_from_camera=np.eye(4))
        for name in config.view_names
    }
