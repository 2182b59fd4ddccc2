"""Does our text encoder answer what the published one answered, at the padded positions too?

A golden file holds ``ids``, ``mask`` (token numbers, padded) and ``out`` (vectors at all positions). Weights are drawn
(golden_recipe.py) under the official names; embeddings have unit variance, position weights are ten times larger.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from xwam.check.golden_recipe import read_json, read_tensors, relative_error, weights
from xwam.config import TextConfig
from xwam.model.text import TextEncoder, transformers_name


def check_text(folder: Path, name: str, *, device: str = "cpu") -> Iterator[tuple[str, float]]:
    """Our largest error at real and at padded positions, relative to the peak. 1e-5 is the bound to ask for."""
    settings = read_json(folder, name)
    golden = read_tensors(folder, name)
    numbers = settings["config"]

    drawn = weights(settings["shapes"], scale=settings["scale"], salt=settings["salt"])
    drawn["token_embedding.weight"] /= np.float32(settings["scale"])
    for key in drawn:
        if "pos_embedding" in key:
            drawn[key] *= np.float32(10)
    config = TextConfig(
        tokenizer="bytes",  # not used: the golden file holds token numbers
        vocab_size=numbers["vocab"],
        width=numbers["dim"],
        head_width=numbers["dim_attn"] // numbers["num_heads"],
        ffn_width=numbers["dim_ffn"],
        num_blocks=numbers["num_layers"],
        num_heads=numbers["num_heads"],
    )
    named = {transformers_name(key): torch.from_numpy(value) for key, value in drawn.items()}
    encoder = TextEncoder.from_weights(config, settings["seq"], named).to(device)
    with torch.inference_mode():
        ids, mask = (torch.from_numpy(golden[key]).to(device) for key in ("ids", "mask"))
        found = encoder(ids, mask).cpu().numpy()
    is_real = golden["mask"].astype(bool)
    yield "real positions", relative_error(found[is_real], golden["out"][is_real])
    yield "padded positions", relative_error(found[~is_real], golden["out"][~is_real])
