"""Checkpoint folders: self-contained, written whole or not at all, resumable.

A folder holds all that a policy needs: ``config.json layout.json normalizer.json cameras.json model.safetensors vae/
text/ manifest.json``. A training run adds ``training/``: raw weights, averages and moments (saving.py).
``model.safetensors`` are the averaged (EMA) weights.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xwam.config import Config
from xwam.files import flush
from xwam.records import Camera
from xwam.robot.calibration import save_cameras
from xwam.robot.layout import Layout
from xwam.robot.normalizer import Normalizer
from xwam.robot.robot_json import ROBOT_FILE, ROBOTS_FOLDER, RobotConfig, save_robot
from xwam.strict_json import to_json


class Robot(NamedTuple):
    """What a checkpoint knows about the robot it serves."""

    normalizer: Normalizer
    cameras: tuple[Camera, ...]
    mapping: RobotConfig | None = None  # how its data were written; None: our own data
    others: Mapping[str, "Robot"] = {}  # robots (by name) that the same weights learned from besides

    @property
    def layout(self) -> Layout:
        """The meaning of the state's and the action's slots."""
        return self.normalizer.layout


class TrainingState(NamedTuple):
    """All that a run must remember between two steps; randomness is a function of seed and step."""

    model: nn.Module
    average: dict[str, Tensor]  # EMA of the weights that learn, float32
    optimizer: torch.optim.Optimizer


def write_whole(target: Path, fill: Callable[[Path], object]) -> None:
    """Let ``fill(folder)`` write a folder under a temporary name, then give it its name: whole or absent.

    What stood there before is only removed afterwards; see ``restored``.
    """
    temporary, before = target.with_name(f".tmp-{target.name}-{os.getpid()}"), _before(target)
    for old in target.parent.glob(".tmp-*"):  # of a process that was killed
        if re.fullmatch(rf"\.tmp-{re.escape(target.name)}-\d+", old.name):
            shutil.rmtree(old, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        fill(temporary)
        flush(temporary)
    except BaseException:  # a full disk must not stay full
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(before, ignore_errors=True)
        target.rename(before)
    temporary.rename(target)
    flush(target.parent, inside=False)
    shutil.rmtree(before, ignore_errors=True)


def restored(target: Path) -> Path:
    """``target``; one that was being replaced when the process was killed is put back first."""
    if not target.exists() and _before(target).exists():
        _before(target).rename(target)
    return target


def _before(target: Path) -> Path:
    return target.with_name(f".old-{target.name}")


def save_policy_files(folder: Path, config: Config, robot: Robot, frozen: Path, manifest: dict[str, Any]) -> None:
    """Everything of a checkpoint but the transformer's weights. ``frozen`` holds ``vae/`` and ``text/``."""
    (folder / "config.json").write_text(to_json(config))
    _save_robot_files(folder, robot)
    for name, other in robot.others.items():
        (folder / ROBOTS_FOLDER / name).mkdir(parents=True)
        _save_robot_files(folder / ROBOTS_FOLDER / name, other)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    for name in ("vae", "text"):
        shutil.copytree(frozen / name, folder / name, copy_function=_link_or_copy)


def _save_robot_files(folder: Path, robot: Robot) -> None:
    robot.layout.save(folder / "layout.json")
    robot.normalizer.save(folder / "normalizer.json")
    save_cameras(folder / "cameras.json", robot.cameras)
    if robot.mapping is not None:
        save_robot(folder / ROBOT_FILE, robot.mapping)


def save_training(folder: Path, state: TrainingState, step: int) -> None:
    """Raw weights, averages, optimiser moments and the step in three files, for ``load_training``: small models."""
    target = folder / "training"
    target.mkdir()
    save_file({k: v.contiguous() for k, v in state.model.state_dict().items()}, target / "weights.safetensors")
    save_file({k: v.contiguous() for k, v in state.average.items()}, target / "average.safetensors")
    moments = {
        f"{index}.{name}": value.contiguous()
        for index, entry in state.optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    save_file(moments, target / "optimizer.safetensors")
    (target / "step.json").write_text(json.dumps({"step": step}) + "\n")


def load_training(folder: Path, state: TrainingState) -> int:
    """Put a saved run back into ``state`` in place; returns the number of steps done."""
    source = folder / "training"
    state.model.load_state_dict(load_file(source / "weights.safetensors"))
    for name, value in load_file(source / "average.safetensors").items():
        state.average[name].copy_(value)
    stored = state.optimizer.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(source / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    stored["state"] = entries
    state.optimizer.load_state_dict(stored)
    return int(json.loads((source / "step.json").read_text())["step"])


def newest_checkpoint(run: Path) -> Path | None:
    """The last whole checkpoint of a run, if any."""
    found = _whole_checkpoints(run)
    return found[-1] if found else None


def keep_newest(run: Path, count: int, every: int = 0) -> None:
    """Delete a run's checkpoints but the newest ``count``, multiples of ``every`` and the best in the closed loop."""
    saved = _whole_checkpoints(run)
    best = _best_played(run, saved)
    for old in saved[:-count]:
        is_multiple = every > 0 and int(old.name.removeprefix("step-")) % every == 0
        if old.name != best and not is_multiple:
            (old / "training" / "step.json").unlink()  # from here on it counts no more
            shutil.rmtree(old, ignore_errors=True)  # somebody may still read in it


def _best_played(run: Path, saved: Sequence[Path]) -> str | None:
    """The name of the checkpoint with the highest success (validate.py) among those that played what the newest did."""
    played: list[tuple[Any, float, str]] = []  # what was played, success, name; oldest first
    for name in (path.name for path in saved):
        report = run / "closed-loop" / f"{name}.json"
        if report.is_file():
            found = json.loads(report.read_text())
            asked = found["settings"]["tasks"], found["settings"]["num_episodes"]
            if len(found["episodes"]) == len(asked[0]) * asked[1]:  # played to the end
                played.append((asked, found["mean_success"], name))
    alike = [(success, name) for asked, success, name in played if asked == played[-1][0]]
    return max(alike)[1] if alike else None


def _whole_checkpoints(run: Path) -> list[Path]:
    """Folders of the names that a run gives, with a whole training state, oldest first."""
    named = [p for p in run.glob("step-*") if re.fullmatch(r"step-\d{7,}", p.name)]
    return sorted(p for p in named if (p / "training" / "step.json").is_file())


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)  # a link to a link may lead nowhere from there
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)
