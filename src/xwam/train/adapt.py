"""A checkpoint made to fit other cameras, other numbers or a larger model: what still has a meaning is kept.

Views are known by their names: a known one keeps its embedding, a new one begins with the mean of all. Layers at the
edges that read or write actions and states are drawn anew when their widths differ. A larger model begins by computing
what the smaller one does (grow.py).
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from xwam.config import Config, load, to_json
from xwam.files import whole_file
from xwam.model.shards import weight_files
from xwam.model.xwam import XWAM, init_weight
from xwam.train.grow import SIZES, check_grows, grown
from xwam.train.manifest import weights_hash

VIEWS = "view_embedding.weight"


def with_frozen_of(start: Path, config: Config) -> Config:
    """``config`` with the sizes of the autoencoder and the text encoder of ``start``, which are taken as they are."""
    stored = load(Config, start / "config.json")
    names = ("latent_channels", "text_width", "text_length")
    model = replace(config.model, **{name: getattr(stored.model, name) for name in names})
    return replace(config, model=model, vae=stored.vae, text=stored.text)


def adapted(start: Path, config: Config, folder: Path) -> Path:
    """``start`` itself when its sizes are those of ``config``, else a copy in ``folder`` that fits.

    Raises ValueError when it cannot be made to fit.
    """
    stored = load(Config, start / "config.json")
    if stored.model == config.model and stored.view_names == config.view_names:
        return start
    try:
        check_grows(stored.model, config.model)
    except ValueError as error:
        raise ValueError(f"start={start} (preset {stored.name!r}) does not fit into {config.name!r}: {error}") from None
    if len(stored.view_names) != stored.model.num_views or config.depth_is_views:
        raise ValueError(f"start={start}: its views are not its cameras, so they cannot be exchanged.")
    origin = {"weights": weights_hash(start), "seed": config.train.seed, "views": list(config.view_names)}
    origin = json.loads(json.dumps({"start": str(start.resolve()), **origin, **vars(config.model)}))
    facts = folder / "adapted.json"
    if facts.is_file() and json.loads(facts.read_text()) == origin:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    facts.unlink(missing_ok=True)
    weights = {
        name: tensor for file in weight_files(start / "model.safetensors") for name, tensor in load_file(file).items()
    }
    with whole_file(folder / "model.safetensors") as path:
        save_file(_fitted(weights, stored, config), path)
    for name in ("vae", "text"):
        shutil.copytree(start / name, folder / name, dirs_exist_ok=True)
    (folder / "config.json").write_text(
        to_json(replace(stored, name=config.name, view_names=config.view_names, model=config.model))
    )
    facts.write_text(json.dumps(origin))
    return folder


def _fitted(weights: dict[str, torch.Tensor], stored: Config, config: Config) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        wanted = dict(XWAM(config.model).named_parameters())
    generator = torch.Generator().manual_seed(config.train.seed)
    fitted = dict(weights)
    if any(getattr(stored.model, name) != getattr(config.model, name) for name in SIZES):
        fitted = grown(weights, stored.model, config.model, generator)
    old = fitted[VIEWS]
    rows = [old[stored.view_names.index(n)] if n in stored.view_names else old.mean(dim=0) for n in config.view_names]
    fitted[VIEWS] = torch.stack(rows).contiguous()
    for name, weight in wanted.items():
        if name in fitted and fitted[name].shape != weight.shape:
            drawn = torch.empty(weight.shape)
            init_weight(name, drawn, config.model.width, generator)
            fitted[name] = drawn.to(fitted[name].dtype)
    return fitted
