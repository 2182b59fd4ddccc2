"""Does our video autoencoder encode and decode what the published one did?

A golden file holds ``video``, ``mean`` and ``std`` of the latents, ``encode`` (normalised latents of the video),
``latents_in`` and ``decode`` (its pictures, clamped). Weights are drawn (golden_recipe.py) under the official names.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from xwam.check.golden_recipe import read_json, read_tensors, relative_error, weights
from xwam.config import VaeConfig
from xwam.model.vae import VideoVae, diffusers_name


def check_vae(folder: Path, name: str, *, device: str = "cpu") -> Iterator[tuple[str, float]]:
    """Every golden tensor's name and our largest error, relative to its peak. 1e-5 is the bound to ask for."""
    settings = read_json(folder, name)
    golden = read_tensors(folder, name)

    drawn = weights(settings["shapes"], scale=settings["scale"], salt=settings["salt"])
    named = {f"vae.{diffusers_name(key)}": torch.from_numpy(value) for key, value in drawn.items()}
    config = VaeConfig(
        base_width=settings["dim"],
        decoder_base_width=settings["dec_dim"],
        latent_channels=settings["z_dim"],
        width_multipliers=tuple(settings["dim_mult"]),
        num_res_blocks=settings["num_res_blocks"],
    )
    statistics = {"latent_mean": torch.from_numpy(golden["mean"]), "latent_std": torch.from_numpy(golden["std"])}
    vae = VideoVae.from_weights(config, named | statistics).to(device)
    video, latents = (torch.from_numpy(golden[key]).to(device) for key in ("video", "latents_in"))
    with torch.inference_mode():
        yield "encode", relative_error(vae.encode(video).cpu().numpy(), golden["encode"])
        yield (
            "encode/first_frame",
            relative_error(vae.encode(video[:, :, :1]).cpu().numpy(), golden["encode"][:, :, :1]),
        )
        yield "decode", relative_error(vae.decode(latents).cpu().numpy(), golden["decode"])
