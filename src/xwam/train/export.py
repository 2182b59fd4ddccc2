"""From a run's checkpoint to what leaves the house: a policy, an adapter, or the whole state in plain files.

- a policy: an ordinary checkpoint folder, averaged weights, adapters merged, nothing of the training;
- an adapter: what LoRA learned, and the name and hash of the checkpoint that it belongs to;
- the state: everything that is needed to go on, in one file per checkpoint instead of one per process.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xwam.config import Config
from xwam.files import whole_file
from xwam.model.weights import load_weights, save_weights
from xwam.model.xwam import XWAM
from xwam.policy import PROMPTS_FILE
from xwam.robot.robot_json import ROBOT_FILE, ROBOTS_FOLDER
from xwam.strict_json import load
from xwam.train import lora
from xwam.train.checkpoint import write_whole
from xwam.train.manifest import weights_hash
from xwam.train.optimizers import trained
from xwam.train.saving import read_tensors

SETTINGS = ("config.json", "layout.json", "normalizer.json", "cameras.json", "manifest.json")
ADAPTER, ADAPTER_FACTS = "adapter.safetensors", "adapter.json"


def export_policy(source: Path, target: Path, *, dtype: torch.dtype = torch.bfloat16, base: Path | None = None) -> None:
    """Write a checkpoint without training state, the transformer's averaged weights in ``dtype``: what is shipped.

    ``source``: a step-… folder of any run, or an adapter. ``base``: where the adapter's checkpoint lies now.
    """
    _check(source, target)
    weights = _averaged(source, base)
    frozen = source if (source / "vae").is_dir() else _base_of(source, base)

    def fill(folder: Path) -> None:
        _copy_settings(source, folder)
        for name in ("vae", "text"):
            shutil.copytree(frozen / name, folder / name)
        if (target / "README.md").is_file():
            shutil.copy2(target / "README.md", folder / "README.md")
        save_weights(folder / "model.safetensors", weights, dtype=dtype)

    write_whole(target, fill)


def export_adapter(source: Path, target: Path) -> None:
    """Write what LoRA learned (averaged, float32; peft's names) beside a reference to the checkpoint it belongs to."""
    _check(source, target)
    stored = json.loads((source / "manifest.json").read_text())
    rank = stored.get("setup", {}).get("lora_rank", 0)
    if not rank:
        raise ValueError(f"source={source} was not trained with LoRA: export it whole (xwam convert run).")
    names = {name: name.replace(".default.", ".") for name in _learned(source, rank)}
    facts = {"lora_rank": rank, "scale": 1.0, "targets": lora.TARGETS, "base": stored["start"]}

    def fill(folder: Path) -> None:
        _copy_settings(source, folder)
        values = _read_average(source, rank)
        with whole_file(folder / ADAPTER) as path:
            save_file({names[name]: value.contiguous() for name, value in values.items()}, path)
        (folder / ADAPTER_FACTS).write_text(json.dumps(facts, indent=2) + "\n")

    write_whole(target, fill)


def export_state(source: Path, target: Path) -> None:
    """Copy a checkpoint with its whole training state in one file; a run may go on from it."""
    _check(source, target)

    def fill(folder: Path) -> None:
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("training"), dirs_exist_ok=True)
        (folder / "training").mkdir()
        values = _whole_state(source)
        with whole_file(folder / "training/state.safetensors") as path:
            save_file({name: value.contiguous() for name, value in values.items()}, path)
        shutil.copy2(source / "training" / "step.json", folder / "training" / "step.json")

    write_whole(target, fill)


def _check(source: Path, target: Path) -> None:
    """Refuse a source that is no checkpoint, and a target that holds anything but one: it will be replaced."""
    if not (source / "config.json").is_file():
        raise FileNotFoundError(f"source={source}: no config.json there; give one step-… folder of a run.")
    if source.resolve().is_relative_to(target.resolve()):
        raise ValueError(f"target={target} holds source={source}: it would be replaced; give another folder.")
    is_free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if not is_free and not (target / "config.json").is_file():
        raise ValueError(f"target={target} is no checkpoint and would be replaced: give a new or an empty folder.")


def _copy_settings(source: Path, folder: Path) -> None:
    for name in SETTINGS:
        shutil.copy2(source / name, folder / name)
    if (source / PROMPTS_FILE).is_file():  # a server that knows these prompts needs no text encoder
        shutil.copy2(source / PROMPTS_FILE, folder / PROMPTS_FILE)
    if (source / ROBOT_FILE).is_file():
        shutil.copy2(source / ROBOT_FILE, folder / ROBOT_FILE)
    if (source / ROBOTS_FOLDER).is_dir():
        shutil.copytree(source / ROBOTS_FOLDER, folder / ROBOTS_FOLDER)


def _averaged(source: Path, base: Path | None) -> dict[str, Tensor]:
    """The plain averaged weights of a run's checkpoint, or of an adapter on its base."""
    if (source / "model.safetensors").is_file():
        return load_file(source / "model.safetensors")
    if (source / ADAPTER).is_file():
        rank = json.loads((source / ADAPTER_FACTS).read_text())["lora_rank"]
        stored = load_file(source / ADAPTER)
        learned = {name: stored[name.replace(".default.", ".")] for name in _learned(source, rank)}
    else:
        rank = json.loads((source / "manifest.json").read_text())["setup"]["lora_rank"]
        learned = _read_average(source, rank)
    if not rank:
        return learned
    config = load(Config, source / "config.json")
    resting = load_weights(_base_of(source, base) / "model.safetensors", config.model).state_dict()
    names = {lora.plain_name(name): name for name, _ in _model(source, rank).named_parameters()}
    weights = {names[name]: resting.pop(name) for name in list(resting)} | learned
    del learned
    return lora.merge(weights)


def _base_of(source: Path, base: Path | None) -> Path:
    """The checkpoint that an adapter belongs to. Raises unless it is there and has the weights it had."""
    facts = source / ADAPTER_FACTS
    stored = json.loads(facts.read_text())["base"] if facts.is_file() else None
    if stored is None:
        stored = json.loads((source / "manifest.json").read_text())["start"]
    folder = base or Path(stored["checkpoint"])
    why = ""
    if "made_of" in stored:
        why = f" It was made of {stored['made_of']['checkpoint']} to fit: it is the folder start of its run."
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"base={folder}: the checkpoint that was adapted is not there; say where: --base DIR.{why}"
        )
    if weights_hash(folder) != stored["weights"]:
        raise ValueError(
            f"base={folder} has other weights than the checkpoint that was adapted; give the right one.{why}"
        )
    return folder


def _model(source: Path, rank: int) -> XWAM:
    """The model as it was trained, without storage."""
    with torch.device("meta"):
        model = XWAM(load(Config, source / "config.json").model)
        if rank:
            lora.add_lora(model, rank)
    return model


def _learned(source: Path, rank: int) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in trained(_model(source, rank))}


def _read_average(source: Path, rank: int) -> dict[str, Tensor]:
    values = {f"average.{name}": torch.empty(shape) for name, shape in _learned(source, rank).items()}
    read_tensors(source / "training", values)
    return {name.removeprefix("average."): value for name, value in values.items()}


def _whole_state(source: Path) -> dict[str, Tensor]:
    stored = json.loads((source / "manifest.json").read_text())
    rank = stored.get("setup", {}).get("lora_rank", 0)
    kinds = ("weights", "average", "first", "second")
    shapes = _learned(source, rank)
    values = {f"{kind}.{name}": torch.empty(shape) for kind in kinds for name, shape in shapes.items()}
    read_tensors(source / "training", values)
    return values
