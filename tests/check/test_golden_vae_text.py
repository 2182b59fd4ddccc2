"""The frozen parts answer what the published ones answered, and know the names of the published files."""

import json
from pathlib import Path

import torch
from transformers import ByT5Tokenizer

from xwam.check.golden_text import check_text
from xwam.check.golden_vae import check_vae
from xwam.model.text import TextEncoder, transformers_name
from xwam.model.vae import WAN22_LATENT_MEAN, WAN22_LATENT_STD, VideoVae, diffusers_name
from xwam.presets import preset

GOLDENS = Path(__file__).parents[1] / "goldens"
BOUND = 1e-5


def test_video_autoencoder():
    errors = dict(check_vae(GOLDENS, "vae_public_a"))
    assert set(errors) == {"encode", "encode/first_frame", "decode"}
    assert max(errors.values()) < BOUND


def test_text_encoder():
    errors = dict(check_text(GOLDENS, "t5_public_a"))
    assert set(errors) == {"real positions", "padded positions"}
    assert max(errors.values()) < BOUND


def test_names_and_shapes_of_the_published_autoencoder():
    manifest = json.loads((GOLDENS / "wan22_vae_manifest.json").read_text())
    published = {f"vae.{diffusers_name(name)}": tuple(shape) for name, shape in manifest.items()}
    with torch.device("meta"):
        vae = VideoVae(preset("wan22_5b").vae)
    ours = {name: tuple(weight.shape) for name, weight in vae.named_parameters()}
    assert published == ours
    assert sum(weight.numel() for weight in vae.parameters()) == 704_688_668


def test_names_and_shapes_of_the_published_text_encoder():
    manifest = json.loads((GOLDENS / "umt5_xxl_manifest.json").read_text())
    published = {transformers_name(name): tuple(shape) for name, shape in manifest.items()}
    config = preset("wan22_5b")
    with torch.device("meta"):
        text = TextEncoder(config.text, config.model.text_length, tokenizer=ByT5Tokenizer())
    ours = {name: tuple(weight.shape) for name, weight in text.model.named_parameters()}
    assert published == ours
    assert sum(weight.numel() for weight in text.parameters()) == 5_680_910_336


def test_published_latent_statistics():
    golden = json.loads((GOLDENS / "wan22_vae_latent_stats.json").read_text())
    assert list(WAN22_LATENT_MEAN) == golden["latents_mean"]
    assert list(WAN22_LATENT_STD) == golden["latents_std"]
