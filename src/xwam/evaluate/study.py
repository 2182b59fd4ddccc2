"""Studies: the same policy asked in several ways, or several policies, scored alike; finished points are kept.

A point is a folder with ``closed.json`` (success on unseen placements) and ``open.json`` (held-out clips against what
really happened). Every point of a study plays the same placements and imagines the same clips from the same noise, so
differences between points are paired.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student
from tqdm import tqdm

from xwam.config import Simulator, with_denoise_steps
from xwam.evaluate.clips import held_out, one_of_each, score_clip
from xwam.evaluate.closed_loop import ClosedLoopConfig, evaluate_closed_loop
from xwam.evaluate.results_file import are_same, identity
from xwam.files import write_json
from xwam.policy import Policy

Point = dict[str, float]
"""Numbers of one point, by name: ``wins`` and ``episodes`` of the closed loop; of the open loop means, with their
intervals (``…_low``, ``…_high``; too narrow where there are more clips than episodes: they are not independent)."""

OPEN_LOOP = ("action_position_m", "psnr_db", "psnr_copy_db", "moving_psnr_db", "moving_psnr_copy_db", "abs_rel")
OPEN_LOOP += ("chamfer_m", "path_left_position_m", "path_right_position_m")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How every point of a study is scored."""

    simulator: Simulator = "metaworld"
    tasks: tuple[str, ...]
    num_episodes: int  # per task; 0: no closed loop
    data: Path
    num_clips: int  # 0: no open loop
    seed: int = 0
    replan_every: int = 16
    max_steps: int = 100
    num_envs: int = 2


def with_steps(policy: Policy, **steps: int) -> Policy:
    """The same policy with other numbers of steps; see with_denoise_steps."""
    other = copy.copy(policy)
    other.config = with_denoise_steps(policy.config, **steps)
    return other


def measure(policy: Policy, folder: Path, trial: Trial) -> Point:
    """Score one point, or read what ``folder`` holds of it. Raises ValueError when that was scored in another way."""
    point: Point = {}
    if trial.num_episodes:
        report = evaluate_closed_loop(policy, _closed_loop(trial), folder / "closed.json")
        point["wins"] = float(sum(row["success"] for row in report["episodes"]))
        point["episodes"] = float(len(report["episodes"]))
    if trial.num_clips:
        point |= _open_loop(policy, folder / "open.json", trial)
    return point


def _closed_loop(trial: Trial) -> ClosedLoopConfig:
    settings = asdict(trial)
    return ClosedLoopConfig(**{k: v for k, v in settings.items() if k not in ("data", "num_clips")})


def _open_loop(policy: Policy, path: Path, trial: Trial) -> Point:
    """Means over clips with Student's t interval (``…_low``, ``…_high``); every finished clip is kept."""
    clips = held_out(trial.data, policy.config, absent=policy.absent)
    asked = {"data": clips.episodes.fingerprint, "seed": trial.seed} | identity(policy)
    stored = json.loads(path.read_text()) if path.is_file() else {"asked": asked, "clips": {}}
    if not are_same(stored["asked"], asked):
        raise ValueError(f"path={path} was scored with {stored['asked']}, not {asked}: choose another folder.")
    chosen = one_of_each(clips, trial.num_clips, seed=trial.seed)
    for index in tqdm(chosen, desc="open loop", unit="clip"):
        if str(index) not in stored["clips"]:
            scores = score_clip(policy, clips[index], seed=index)
            stored["clips"][str(index)] = {name: _mean(scores[name]) for name in OPEN_LOOP if name in scores}
            write_json(path, stored)
    point: Point = {}
    for name in OPEN_LOOP:
        rows = [stored["clips"][str(index)].get(name) for index in chosen]
        values = [value for value in rows if value is not None]
        if values:
            point[name] = float(np.mean(values))
            if len(values) > 1:
                point[f"{name}_low"], point[f"{name}_high"] = t_interval(values)
    return point


def _mean(values: np.ndarray) -> float | None:
    """Over the steps that count; None where there is none."""
    finite = np.asarray(values)[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Where the mean lies, from few independent runs: Student's t; NaN for fewer than two of them."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = student.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def same_settings(path: Path, asked: dict[str, Any]) -> None:
    """Remember how a study was made, in ``path``. Raises ValueError when it was begun in another way."""
    stored = json.loads(path.read_text()) if path.is_file() else asked
    if not are_same(stored, asked):
        raise ValueError(f"path={path} holds {stored}, not {asked}: choose another folder.")
    write_json(path, asked)


def markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the documents, ending in a newline."""
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
