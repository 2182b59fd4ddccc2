"""Small files laid out exactly as the published ones: the release's checkpoint and Wan2.2's original folder."""

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from transformers import ByT5Tokenizer

from xwam.config import ModelConfig, TextConfig, VaeConfig
from xwam.model.text import TextEncoder, transformers_name
from xwam.model.vae import VideoVae, diffusers_name
from xwam.model.xwam import XWAM, init_weights

GOLDENS = Path(__file__).parent / "goldens"
MODEL = ModelConfig(
    num_views=3, latent_channels=48, patch_size=(1, 2, 2), width=24, ffn_width=32, num_heads=2, num_blocks=3,
    num_depth_blocks=1, sinusoid_width=16, text_width=16, text_length=512, state_width=16, action_width=14,
    actions_per_frame=4, frames_per_latent=4,
)  # fmt: skip
VAE = VaeConfig(
    base_width=4, decoder_base_width=4, latent_channels=48, width_multipliers=(1, 2, 4, 4), num_res_blocks=2
)
TEXT = TextConfig(
    tokenizer="bytes", vocab_size=384, width=16, head_width=8, ffn_width=32, num_blocks=2, num_heads=2
)  # fmt: skip
NEW = ("view_embedding.", "action_", "proprio_", "extra_")  # what the published Wan does not have


def model_weights() -> dict[str, Tensor]:
    model = XWAM(MODEL)
    init_weights(model, torch.Generator().manual_seed(0))
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def vae_weights() -> dict[str, Tensor]:
    """Under the published names; a small one has the same names as the large."""
    torch.manual_seed(1)
    ours = VideoVae(VAE).state_dict()
    names = json.loads((GOLDENS / "wan22_vae_manifest.json").read_text())
    return {name: ours[f"vae.{diffusers_name(name)}"] for name in names}


def text_weights() -> dict[str, Tensor]:
    torch.manual_seed(2)
    ours = TextEncoder(TEXT, 8, ByT5Tokenizer()).model.state_dict()
    names = json.loads((GOLDENS / "umt5_xxl_manifest.json").read_text())
    pairs = {name: transformers_name(name) for name in names}
    return {name: ours[inside].bfloat16() for name, inside in pairs.items() if inside in ours}


def statistics(name: str) -> dict:
    recorded = json.loads((GOLDENS / "data" / f"data_{name}.json").read_text())
    return recorded["statistics"]["action_skip1"]


def module_weights() -> dict[str, Tensor]:
    """What the release's checkpoint holds under ``module``."""
    stats = {"vae.mean": torch.linspace(-1, 1, 48), "vae.std": torch.linspace(1, 2, 48)}
    parts = {"model.": model_weights(), "vae.model.": vae_weights(), "text_encoder.model.": text_weights()}
    return stats | {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}


def full_size_module() -> dict[str, Tensor]:
    """Empty tensors (no memory is touched) of the release's real names, shapes and, about, types."""
    lines = (GOLDENS / "wan22_5b_weights.txt").read_text().splitlines()
    network = {name: list(map(int, shape.split("x"))) for name, shape in map(str.split, lines)}
    vae, text = (json.loads((GOLDENS / f).read_text()) for f in ("wan22_vae_manifest.json", "umt5_xxl_manifest.json"))
    return (
        {f"model.{name}": torch.empty(shape) for name, shape in network.items()}
        | {f"vae.model.{name}": torch.empty(shape, dtype=torch.bfloat16) for name, shape in vae.items()}
        | {f"text_encoder.model.{name}": torch.empty(shape, dtype=torch.bfloat16) for name, shape in text.items()}
        | {"vae.mean": torch.empty(48), "vae.std": torch.empty(48)}
    )


def write_release(root: Path, module: dict[str, Tensor], config: dict | None) -> Path:
    checkpoint = root / "last.ckpt" / "checkpoint" / "mp_rank_00_model_states.pt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"module": module, "ds_version": "0.17", "global_steps": 7}, checkpoint)
    if config is not None:
        (root / "config.yaml").write_text(yaml.safe_dump(config))
    return root


def write_wan(root: Path) -> Path:
    root.mkdir()
    weights = {name: tensor for name, tensor in model_weights().items() if not name.startswith(NEW)}
    names, index = list(weights), {}
    for number, group in enumerate((names[::2], names[1::2]), start=1):
        file = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in group}, root / file)
        index |= dict.fromkeys(group, file)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (root / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
    (root / "config.json").write_text(json.dumps({"dim": MODEL.width, "num_heads": MODEL.num_heads}))
    torch.save(vae_weights(), root / "Wan2.2_VAE.pth")
    torch.save(text_weights(), root / "models_t5_umt5-xxl-enc-bf16.pth")
    (root / "google" / "umt5-xxl").mkdir(parents=True)
    return root


def all_settings(name: str, **more: object) -> dict:
    """A configuration file with the statistics somewhere inside and the heads' number."""
    return {"model": {"num_heads": MODEL.num_heads}, "data": {"statistics": statistics(name), **more}}
