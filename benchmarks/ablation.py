"""Does the method hold in small? The ablation of the X-WAM paper (arXiv 2604.26694, Table 4) on one data set.

    make reproduce-ablation     # or, on the latents of any run:
    python benchmarks/ablation.py --source runs/ablation/source --data runs/ablation/data --out runs/ablation/cells

Every training starts from the same latents and frozen parts (``--source``: a run of ``xwam train``), sees the same
number of samples, and is repeated with several seeds:

- noise drawn asynchronously, decoupled or synchronously; each asked synchronously (25 steps for video and actions) and
  asynchronously (5 of 25);
- depth from a branch, not at all, or as further views of the sequence (asynchronous noise, asked 5 of 25). Pictures and
  depth then share the video loss, so its weight is doubled;
- ``--demonstrations 10 20 40``: also on so many episodes per task.

Interrupt and repeat at will: a training resumes exactly, an evaluation goes on with its next episode. ``table.md`` and
``success.svg`` are written anew after every finished cell. Processes may share the work: give them different --seeds
and the same --out, then run once more with all seeds.
"""

import json
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import tyro

from xwam.config import Config
from xwam.data.lerobot import open_lerobot
from xwam.evaluate.clips import held_out, observation_of
from xwam.evaluate.metrics import wilson_interval
from xwam.evaluate.report_plots import IMAGINED, Line, figure, interval_chart, line_chart
from xwam.evaluate.study import Point, Trial, markdown_table, measure, t_interval, with_steps
from xwam.files import write_json
from xwam.policy import load_policy
from xwam.presets import preset
from xwam.train.cached import train_from_cache
from xwam.train.options import Setup

NOISE = ("asynchronous", "decoupled", "synchronous")
DEPTH = ("no-depth", "depth-views")
STEPS = {"asynchronous": (25, 5), "synchronous": (25, 25)}  # of video, of actions
LATENCY_ROUNDS = 5
MAY_CHANGE = {"out", "seeds", "trainings", "demonstrations", "save_every", "envs", "device"}
METRICS = {  # name: (heading, factor, digits)
    "action_position_m": ("action error, mm", 1000, 1),
    "psnr_db": ("PSNR, dB", 1, 2),
    "moving_psnr_db": ("PSNR moving, dB", 1, 2),
    "abs_rel": ("AbsRel", 1, 3),
    "chamfer_m": ("Chamfer, mm", 1000, 1),
}


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is compared, and how long it may take."""

    source: Path  # a run of `xwam train`: its frozen/ and latents/ are used
    data: Path  # the data set that they were made of
    out: Path
    preset: str = "mini"
    seeds: tuple[int, ...] = (0, 1, 2)
    trainings: tuple[str, ...] = (*NOISE, *DEPTH)
    demonstrations: tuple[int, ...] = ()  # further trainings, on so many episodes per task
    steps: int = 700
    batch_size: int = 16
    action_loss_weight: float = 4.0
    save_every: int = 250
    precision: Literal["auto", "float32", "bfloat16"] = "bfloat16"
    tasks: tuple[str, ...] = ()  # of the closed loop; empty: all of the data set
    episodes: int = 8  # per task
    max_steps: int = 64  # actions per episode
    clips: int = 8  # held-out clips
    envs: int = 1
    device: str = "cpu"


class Cell(NamedTuple):
    """One row of the table: how it was trained, and how it was asked."""

    training: str
    inference: str


REFERENCE = Cell("asynchronous", "asynchronous")


def run(settings: Ablation) -> None:
    """Train and score whatever is not finished, then write latencies, table and plot."""
    _check_settings(settings)
    trial = _trial(settings)
    trainings = [*settings.trainings, *(f"demonstrations-{count}" for count in settings.demonstrations)]
    for seed in settings.seeds:
        for training in trainings:
            checkpoint = _trained(settings, training, seed)
            for cell in cells_of(training):
                score(settings, trial, cell, seed, checkpoint)
                write_results(settings, trainings)
    measure_latency(settings, trainings)
    write_results(settings, trainings)


def _check_settings(settings: Ablation) -> None:
    """Cells are only comparable when all were made alike. Raises ValueError when ``out`` holds others."""
    path = settings.out / "settings.json"
    mine = {name: str(value) for name, value in vars(settings).items() if name not in MAY_CHANGE}
    if not path.is_file():
        return write_json(path, mine)
    for name, stored in json.loads(path.read_text()).items():
        if mine[name] != stored:
            raise ValueError(f"{name}={mine[name]}: out={settings.out} was begun with {stored}; use another folder.")
    return None


def cells_of(training: str) -> list[Cell]:
    """The ways in which this training's checkpoint is asked."""
    return [Cell(training, inference) for inference in (STEPS if training in NOISE else [REFERENCE.inference])]


def config_of(settings: Ablation, training: str, seed: int) -> Config:
    """The preset with what this training changes."""
    config = preset(settings.preset)
    model, noise, video_loss_weight = config.model, config.noise, config.train.video_loss_weight
    if training in NOISE:
        noise = replace(noise, draw=training)
    elif training == "no-depth":
        model = replace(model, num_depth_blocks=0)
    elif training == "depth-views":
        model = replace(model, num_depth_blocks=0, num_views=2 * len(config.view_names))
        video_loss_weight *= 2
    elif not training.startswith("demonstrations-"):
        raise ValueError(f"training={training!r}: allowed: {', '.join((*NOISE, *DEPTH))}; see also --demonstrations.")
    train = replace(
        config.train, seed=seed, num_steps=settings.steps, batch_size=settings.batch_size,
        action_loss_weight=settings.action_loss_weight, video_loss_weight=video_loss_weight,
        save_every=settings.save_every,
    )  # fmt: skip
    return replace(config, model=model, noise=noise, train=train)


def _trained(settings: Ablation, training: str, seed: int) -> Path:
    """The finished checkpoint; without what only a training needs that is to go on."""
    config, out = config_of(settings, training, seed), settings.out / "runs" / f"{training}-seed{seed}"
    finished = out / f"step-{settings.steps:07d}"
    count = int(training.split("-")[1]) if training.startswith("demonstrations-") else None
    if not finished.is_dir() or (finished / "training").is_dir():
        if config.train.compile:
            torch.compiler.reset()  # programs of the training before
        train_from_cache(
            config, settings.data, settings.source, out,
            num_demonstrations=count, how=Setup(precision=settings.precision), device=settings.device,
        )  # fmt: skip
        for folder in sorted(out.glob("step-*")):
            shutil.rmtree(folder if folder != finished else folder / "training")
    return finished


def _trial(settings: Ablation) -> Trial:
    tasks = settings.tasks
    if not tasks:
        episodes = open_lerobot(settings.data)
        tasks = tuple(sorted({episodes.info(number).task for number in range(episodes.num_episodes)}))
    return Trial(
        tasks=tasks, num_episodes=settings.episodes, data=settings.data, num_clips=settings.clips,
        max_steps=settings.max_steps, num_envs=settings.envs,
    )  # fmt: skip


def score(settings: Ablation, trial: Trial, cell: Cell, seed: int, checkpoint: Path) -> None:
    """Closed and open loop of one cell, kept in one JSON file."""
    path = _path(settings, cell, seed)
    if not path.is_file():
        num_video_steps, num_action_steps = STEPS[cell.inference]
        policy = with_steps(
            load_policy(checkpoint, device=settings.device),
            num_video_steps=num_video_steps,
            num_action_steps=num_action_steps,
        )
        write_json(path, measure(policy, path.with_suffix(""), trial))


def _path(settings: Ablation, cell: Cell, seed: int) -> Path:
    return settings.out / "cells" / f"{cell.training}-asked-{cell.inference}-seed{seed}.json"


def measure_latency(settings: Ablation, trainings: Sequence[str]) -> None:
    """Seconds from an observation to its actions, all cells in turn; on a CPU those of one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config, seed = preset(settings.preset), settings.seeds[0]
    observation, policies = observation_of(held_out(settings.data, config)[0]), {}
    for training in trainings:
        policy = load_policy(_trained(settings, training, seed), device=settings.device)
        for cell in cells_of(training):
            num_video_steps, num_action_steps = STEPS[cell.inference]
            policies[cell] = with_steps(policy, num_video_steps=num_video_steps, num_action_steps=num_action_steps)
    seconds: dict[Cell, list[float]] = {cell: [] for cell in policies}
    for _ in range(LATENCY_ROUNDS):
        for cell, policy in policies.items():
            start = time.process_time() if settings.device == "cpu" else time.perf_counter()
            next(policy.predict(observation, actions_only=True))
            now = time.process_time() if settings.device == "cpu" else time.perf_counter()
            seconds[cell].append(now - start)
    torch.set_num_threads(threads)
    medians = {"/".join(cell): statistics.median(values[1:]) for cell, values in seconds.items()}
    write_json(settings.out / "latency.json", medians)


def write_results(settings: Ablation, trainings: Sequence[str]) -> None:
    """``table.md`` and ``success.svg`` of all cells that are finished by now."""
    points: dict[Cell, dict[int, Point]] = {}
    for cell in (cell for training in trainings for cell in cells_of(training)):
        paths = {seed: _path(settings, cell, seed) for seed in settings.seeds}
        points[cell] = {seed: json.loads(path.read_text()) for seed, path in paths.items() if path.is_file()}
    points = {cell: found for cell, found in points.items() if found}
    path = settings.out / "latency.json"
    latencies = json.loads(path.read_text()) if path.is_file() else {}
    headings = ["training", "asked", "seeds", "success (95 %)", "difference to the first row (t)"]
    headings += [heading for heading, _, _ in METRICS.values()] + ["s to actions"]
    rows = []
    for cell, found in points.items():
        seconds = latencies.get("/".join(cell))
        row = [*cell, str(len(found)), _success_text(found), _difference_text(found, points.get(REFERENCE, {}))]
        row += [_metric_text(found, *metric) for metric in METRICS.items()]
        rows.append([*row, "–" if seconds is None else f"{seconds:.2f}"])
    (settings.out / "table.md").write_text(markdown_table(headings, rows))
    _write_plot(settings.out / "success.svg", {cell: found for cell, found in points.items() if _episodes(found)})


def _write_plot(path: Path, points: dict[Cell, dict[int, Point]]) -> None:
    if not points:
        return
    rows = [(f"{c.training}, asked {c.inference}", *_success(found)) for c, found in points.items()]
    panels = [interval_chart([(name, low, rate, high) for name, rate, low, high in rows])]
    by_count = [(_demonstrations(c), *_success(f)) for c, f in points.items() if _demonstrations(c)]
    if by_count:
        numbers = np.array(sorted(by_count))
        line = Line("success", numbers[:, :2], IMAGINED, interval=numbers[:, 2:])
        panels.append(line_chart([line], "demonstrations per task", "success"))
    path.write_text(figure(panels))


def _demonstrations(cell: Cell) -> int:
    """Of a task; 0 in a training that sees all there are."""
    return int(cell.training.split("-")[1]) if cell.training.startswith("demonstrations-") else 0


def _episodes(found: dict[int, Point]) -> int:
    return int(sum(point.get("episodes", 0) for point in found.values()))


def _success(found: dict[int, Point]) -> tuple[float, float, float]:
    """Rate and Wilson interval over the episodes of all seeds together."""
    wins, episodes = int(sum(point["wins"] for point in found.values())), _episodes(found)
    return (wins / episodes, *wilson_interval(wins, episodes))


def _success_text(found: dict[int, Point]) -> str:
    if not _episodes(found):
        return "–"
    rate, low, high = _success(found)
    return f"{rate:.0%} ({low:.0%} to {high:.0%})"


def _difference_text(found: dict[int, Point], reference: dict[int, Point]) -> str:
    """Mean over the seeds of both; same placements, same seed of training, so it is paired."""
    common = [seed for seed in found if seed in reference and "wins" in found[seed]]
    if found is reference or not common:
        return "–"
    rates = [{s: point[s]["wins"] / point[s]["episodes"] for s in common} for point in (found, reference)]
    differences = [rates[0][seed] - rates[1][seed] for seed in common]
    low, high = t_interval(differences)
    return f"{np.mean(differences):+.0%}" + (f" ({low:+.0%} to {high:+.0%})" if len(common) > 1 else "")


def _metric_text(found: dict[int, Point], name: str, shown: tuple[str, float, int]) -> str:
    """Mean over seeds, and half of the t interval's width."""
    _, factor, digits = shown
    values = [factor * point[name] for point in found.values() if name in point]
    if not values:
        return "–"
    low, high = t_interval(values)
    return f"{np.mean(values):.{digits}f}" + (f" ± {(high - low) / 2:.{digits}f}" if len(values) > 1 else "")


if __name__ == "__main__":
    settings = tyro.cli(Ablation, description=__doc__)
    run(settings)
    print((settings.out / "table.md").read_text())
