"""A checkpoint made to fit other cameras, other numbers or a larger model: what still has a meaning is kept.

Views are known by their names: a known one keeps its embedding, a new one begins near the mean of all. Layers at the
edges that read or write actions and states are drawn anew when their widths differ. A larger model begins by computing
what the smaller one does (grow.py). A depth branch that the start lacks begins as the published one did: with copies of
the last blocks and a head drawn anew.
"""

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from xwam.config import Config, ModelConfig
from xwam.files import as_json, fingerprint, whole_file
from xwam.model.shards import weight_files
from xwam.model.xwam import XWAM, init_weight
from xwam.strict_json import load, to_json
from xwam.train.checkpoint import write_whole
from xwam.train.grow import SIZES, check_grows, grown
from xwam.train.manifest import ADAPTED, weights_hash
from xwam.train.sources import Source, has_depth

VIEWS = "view_embedding.weight"


def with_frozen_of(start: Path, config: Config) -> Config:
    """``config`` with the sizes of the autoencoder and the text encoder of ``start``, which are taken as they are."""
    stored = load(Config, start / "config.json")
    names = ("latent_channels", "text_width", "text_length")
    model = replace(config.model, **{name: getattr(stored.model, name) for name in names})
    return replace(config, model=model, vae=stored.vae, text=stored.text)


def with_known_depth(config: Config, sources: Sequence[Source], start: Path | None) -> Config:
    """Without a depth branch, and with a warning, where nothing would teach it: it would answer noise as metres."""
    knows = start is not None and load(Config, start / "config.json").model.has_depth
    if not knows and (not config.model.has_depth or config.depth_is_views):
        return config
    is_taught = any(has_depth(source, config.view_names) for source in sources)
    if knows:
        if not is_taught:
            warnings.warn(
                f"start={start} knows depth and no data set has any: its branch stays as it is, and as the rest "
                "learns it no longer fits; look at it, or let a teacher add depth (`xwam annotate depth`). Cameras of "
                "the start's names keep its ranges of depth.",
                stacklevel=2,
            )
            return replace(config, train=replace(config.train, depth_loss_weight=0.0))  # its branch then stays
        return config
    if is_taught:
        if start is not None:
            warnings.warn(f"start={start} has no depth branch: it gets copies of its last blocks as one.", stacklevel=2)
        return config
    warnings.warn(
        "no data set has depth: the model gets no depth branch, and imagines colour alone. `xwam annotate depth` "
        "lets a teacher add depth.",
        stacklevel=2,
    )
    return replace(config, model=replace(config.model, num_depth_blocks=0))


def adapted(start: Path, config: Config, folder: Path) -> Path:
    """``start`` itself when its sizes are those of ``config``, else a copy in ``folder`` that fits.

    Raises ValueError when it cannot be made to fit.
    """
    stored = load(Config, start / "config.json")
    if stored.model == config.model and stored.view_names == config.view_names:
        return start
    try:
        check_grows(stored.model, _body(stored, config))
    except ValueError as error:
        raise ValueError(f"start={start} (preset {stored.name!r}) does not fit into {config.name!r}: {error}") from None
    if len(stored.view_names) != stored.model.num_views or config.depth_is_views:
        raise ValueError(f"start={start}: its views are not its cameras, so they cannot be exchanged.")
    made_of = _made_of(start, config)
    facts = folder / ADAPTED
    if facts.is_file() and json.loads(facts.read_text()) == made_of:
        return folder

    def fill(target: Path) -> None:
        files = weight_files(start / "model.safetensors")
        weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
        with whole_file(target / "model.safetensors") as path:
            save_file(_fitted(weights, stored, config), path)
        for name in ("vae", "text"):
            shutil.copytree(start / name, target / name)
        fitted = replace(stored, name=config.name, view_names=config.view_names, model=config.model)
        (target / "config.json").write_text(to_json(fitted))
        (target / ADAPTED).write_text(json.dumps(made_of))

    write_whole(folder, fill)  # never into files that are there: checkpoints of the run are linked with them
    return folder


def _made_of(start: Path, config: Config) -> dict[str, Any]:
    """All that decides what comes out, in JSON's own types (tuples become lists), to be compared with what was kept."""
    parts = {name: [p for p in (start / name).rglob("*") if p.is_file()] for name in ("vae", "text")}
    facts: dict[str, Any] = {name: fingerprint(start / name, files) for name, files in parts.items()}
    facts |= {"weights": weights_hash(start), "seed": config.train.seed, "views": config.view_names}
    return as_json({"checkpoint": str(start.resolve()), **facts, **vars(config.model)})


def _fitted(weights: dict[str, torch.Tensor], stored: Config, config: Config) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        wanted = dict(XWAM(config.model).named_parameters())
    generator = torch.Generator().manual_seed(config.train.seed)
    fitted, body = dict(weights), _body(stored, config)
    if any(getattr(stored.model, name) != getattr(body, name) for name in SIZES):
        fitted = grown(weights, stored.model, body, generator)
    if body.num_depth_blocks != config.model.num_depth_blocks:
        fitted |= _copies_of_last_blocks(fitted, config.model)
    old = fitted[VIEWS]
    rows = [
        old[stored.view_names.index(n)] if n in stored.view_names else _new_view(old, generator)
        for n in config.view_names
    ]
    fitted[VIEWS] = torch.stack(rows).contiguous()
    for name, weight in wanted.items():
        if name not in fitted or fitted[name].shape != weight.shape:
            drawn = torch.empty(weight.shape)
            init_weight(name, drawn, config.model.width, generator)
            fitted[name] = drawn.to(old.dtype)
    return fitted


def _new_view(known: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The mean of the known views, plus noise as fresh views are drawn with: two new views differ."""
    return known.mean(dim=0) + (0.02 * torch.randn(known.shape[1], generator=generator)).to(known.dtype)


def _body(stored: Config, config: Config) -> ModelConfig:
    """What of the model comes from the start: all of it, or all but a depth branch that the start lacks."""
    return config.model if stored.model.has_depth else replace(config.model, num_depth_blocks=0)


def _copies_of_last_blocks(weights: dict[str, torch.Tensor], model: ModelConfig) -> dict[str, torch.Tensor]:
    copies = {}
    for number in range(model.num_depth_blocks):
        block = f"blocks.{model.num_blocks - model.num_depth_blocks + number}."
        for name in [name for name in weights if name.startswith(block)]:
            copies[f"extra_blocks.0.{number}.{name.removeprefix(block)}"] = weights[name].clone()
    return copies
