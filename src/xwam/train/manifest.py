"""What made a run: written beside it and into every checkpoint, and compared before a run goes on.

``run.json`` of a run's folder has one entry per start: code, data, statistics, recipe, machines.
"""

import dataclasses
import functools
import hashlib
import json
import platform
import socket
import subprocess
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import xwam
from xwam.config import Config, TrainConfig
from xwam.files import as_json, write_text
from xwam.model.shards import weight_files
from xwam.train.checkpoint import newest_checkpoint
from xwam.train.options import Setup
from xwam.train.peers import Peers
from xwam.train.rates import learning_rate_at

MADE_BY = {"data": "data and --every", "statistics": "data and --statistics"}
ADAPTED = "adapted.json"  # in a checkpoint that was made to fit: of what
MAY_CHANGE = {
    "num_steps",
    "log_every",
    "validate_every",
    "save_every",
    "keep_every",
    "compile",
}  # the first with a warning
MAY_BE_CORRECTED = {"learning_rate", "max_gradient_norm"}  # of the recipe, when a run goes on


def of_run(config: Config, how: Setup, peers: Peers, start: Path | None) -> dict[str, Any]:
    """Recipe, machines and code of a run, in JSON's own types."""
    return {
        "recipe": recipe(config),
        "setup": dataclasses.asdict(how),
        "effective_batch": config.train.batch_size,
        "num_steps": config.train.num_steps,
        "processes": peers.num_ranks,
        "seed": config.train.seed,
        "start": None if start is None else _begun_from(start),
        "commit": commit(),
        "versions": {"xwam": xwam.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": platform.machine(),
    }


def recipe(config: Config) -> dict[str, Any]:
    """The settings that decide what is learned."""
    train = {k: v for k, v in dataclasses.asdict(config.train).items() if k not in MAY_CHANGE}
    return as_json({"train": train, "noise": dataclasses.asdict(config.noise)})


def write_start(out: Path, facts: dict[str, Any], done: int) -> None:
    """Add this start to ``run.json``."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "run.json"
    starts = json.loads(path.read_text()) if path.is_file() else []
    now = {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "from_step": done, "host": socket.gethostname()}
    write_text(path, json.dumps([*starts, now | facts], indent=1) + "\n")


def _begun_from(start: Path) -> dict[str, Any]:
    """The checkpoint of a run's first weights; one that was adapted (adapt.py) says what it was ``made_of``."""
    made_of = json.loads((start / ADAPTED).read_text()) if (start / ADAPTED).is_file() else None
    origin = {} if made_of is None else {"made_of": {name: made_of[name] for name in ("checkpoint", "weights")}}
    return {"checkpoint": str(start), "weights": weights_hash(start), **origin}


def check_start(out: Path, start: Path | None) -> None:
    """Refuse to go on from another checkpoint than a run began from, before anything is made of it."""
    newest = newest_checkpoint(out)
    began = None if newest is None else json.loads((newest / "manifest.json").read_text()).get("start")
    if began is None:
        return
    given = began.get("made_of", began)
    if start is None:
        raise ValueError(f"start=None: the run in {out} began from {given['checkpoint']}; give --start again.")
    if (now := weights_hash(start)) not in (given["weights"], began["weights"]):  # the latter: what was made of it
        raise ValueError(
            f"start={start} has the weights {now}, the run in {out} began from {given['checkpoint']} with "
            f"{given['weights']}: continue from the same checkpoint, or train into an empty folder."
        )


def check_resume(
    out: Path, config: Config, facts: dict[str, Any], how: Setup, start: Path | None = None
) -> Path | None:
    """The checkpoint to go on from, if any. Raises ValueError when it was made by another recipe or from other data."""
    newest = newest_checkpoint(out)
    if newest is None:
        return None
    stored = json.loads((newest / "manifest.json").read_text())
    for key in ("data", "statistics"):
        if key in facts and stored[key] != facts[key]:
            raise ValueError(
                f"{key}={facts[key]} differs from {stored[key]} of the run in {out}: continue with the same "
                f"{MADE_BY[key]}, or train into an empty folder."
            )
    was, begun = stored.get("setup", {}), (stored.get("start") or {}).get("weights")
    if start is not None and begun != (now := weights_hash(start)):
        raise ValueError(
            f"start={start} has the weights {now}, the run in {out} began with {begun or 'fresh ones'}: "
            "continue from the same checkpoint, or train into an empty folder."
        )
    wanted: dict[str, Any] = {"lora_rank": how.lora_rank, "optimizer is muon": how.optimizer == "muon"}
    old: dict[str, Any] = {"lora_rank": was.get("lora_rank", 0), "optimizer is muon": was.get("optimizer") == "muon"}
    for part, settings in recipe(config).items():
        wanted |= {f"{part}.{name}": value for name, value in settings.items() if name not in MAY_BE_CORRECTED}
        old |= {f"{part}.{name}": value for name, value in stored.get("recipe", {}).get(part, {}).items()}
    for name, value in old.items():
        if wanted.get(name, value) != value:
            raise ValueError(
                f"{name}={wanted[name]} differs from {value} of the run in {out}: "
                "continue with the same recipe, or train into an empty folder."
            )
    return newest


def warn_of_another_end(newest: Path | None, train: TrainConfig) -> None:
    """The learning rate falls towards the last step: when a run goes on with another one, it jumps."""
    before = None if newest is None else json.loads((newest / "manifest.json").read_text()).get("num_steps")
    if newest is None or before in (None, train.num_steps):
        return
    done = int(newest.name.removeprefix("step-"))
    was, now = (learning_rate_at(done, replace(train, num_steps=steps)) for steps in (before, train.num_steps))
    advice = f"; --steps {before} keeps it" if done < before else ""
    warnings.warn(
        f"num_steps={train.num_steps} instead of {before}: the learning rate falls until the last step, so at step "
        f"{done} it goes on with {now:.3g} instead of {was:.3g}{advice}.",
        stacklevel=2,
    )


def hours_of(checkpoint: Path | None) -> float:
    """How long a run had trained when it wrote this checkpoint; 0 where there is none, or where none was noted."""
    return 0.0 if checkpoint is None else json.loads((checkpoint / "manifest.json").read_text()).get("hours", 0.0)


def weights_hash(folder: Path) -> str:
    """Sixteen digits that tell a checkpoint's weights from any others."""
    files = [(path, path.stat()) for path in weight_files(folder / "model.safetensors")]
    return _hash_of(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in files))


@functools.lru_cache  # a run asks four times at its start, and the published model has 27 GB
def _hash_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of files, each with its size and the time of its last change."""
    digest = hashlib.sha256()
    for path, *_ in files:
        with path.open("rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    return digest.hexdigest()[:16]


def commit() -> str:
    """The commit of this code, with a + when it was changed since; "unknown" outside a repository."""
    where = Path(__file__).parent
    try:
        told = [
            subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, check=True).stdout.strip()
            for words in (
                ["ls-files", "--error-unmatch", Path(__file__).name],  # not somebody's who installed it in a repository
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        ]
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return told[1] + ("+" if told[2] else "")
