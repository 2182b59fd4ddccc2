"""What is the prior worth? A task the checkpoint never saw, with few demonstrations: full, LoRA, and from scratch.

    python benchmarks/finetune.py checkpoints/tiny --task plate-slide-v3 --out runs/finetune

Demonstrations are those of the scripted expert; fewer are the first ones of more. All three ways use the checkpoint's
VAE and text encoder, the same clips, noise and number of steps; ``scratch`` begins with fresh weights. Each has its own
learning rate. Scored alike: success on unseen placements, and clips of episodes that nobody trained on. ``prior`` is
the checkpoint as it is, which never saw the task.

Interrupt and repeat at will: everything finished is kept. ``table.md`` and ``finetune.svg`` grow with every cell.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from xwam.config import Config
from xwam.data.clips import split_episodes
from xwam.evaluate.metrics import wilson_interval
from xwam.evaluate.report_plots import Line, figure, line_chart
from xwam.evaluate.study import Point, Trial, markdown_table, measure
from xwam.files import write_json
from xwam.policy import load_policy
from xwam.sim.collect import Recording, collect
from xwam.sim.metaworld import make_metaworld
from xwam.strict_json import load
from xwam.train.checkpoint import write_whole
from xwam.train.export import export_policy
from xwam.train.manifest import weights_hash
from xwam.train.options import Setup, Sources
from xwam.train.pipeline import run_pipeline
from xwam.train.vae_recipe import TINY_VAE

Way = Literal["full", "lora", "scratch"]
COLOURS = {"prior": "#1b7837", "full": "#2166ac", "lora": "#d6604d", "scratch": "#777777"}
HELD_OUT_SEED = 50_000  # placements of the clips to score; demonstrations count from 0


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """What is compared, and how long it may take."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    out: Path
    task: str = "plate-slide-v3"
    demonstrations: tuple[int, ...] = (10, 25, 50)  # that training sees; a tenth more is recorded and held out
    ways: tuple[Way, ...] = ("full", "lora", "scratch")
    steps: int = 600
    batch_size: int = 16
    full_rate: float = 2e-4
    lora_rate: float = 5e-3
    scratch_rate: float = 1e-3
    lora_rank: int = 16
    action_loss_weight: float = 4.0
    every: int = 4
    precision: Literal["auto", "float32", "bfloat16"] = "bfloat16"
    episodes: int = 20  # of the closed loop
    max_steps: int = 100  # actions per episode
    clips: int = 16  # held-out clips
    workers: int = 2
    device: str = "cpu"


def run(settings: Finetune, make_env: Callable = make_metaworld) -> dict[tuple[str, int], Point]:
    """Fill all cells, smallest first. Raises ValueError for a folder that was begun with other settings."""
    config = load(Config, settings.checkpoint / "config.json")
    _check_same(settings)
    scored = _record(settings, "held-out", 20, HELD_OUT_SEED, config, make_env)
    trial = Trial(
        tasks=(settings.task,),
        num_episodes=settings.episodes,
        data=scored,
        num_clips=settings.clips,
        replan_every=config.clip.action_horizon // 2,
        max_steps=settings.max_steps,
        num_envs=settings.workers,
    )
    found: dict[tuple[str, int], Point] = {}

    def score(way: str, count: int, policy: Path) -> None:
        asked = load_policy(policy, device=settings.device)
        found[way, count] = measure(asked, settings.out / f"{way}-{count}", trial)
        write_results(settings.out, found)

    score("prior", 0, settings.checkpoint)
    for count in sorted(settings.demonstrations):
        data = _record(settings, f"data-{count}", recorded(count), 0, config, make_env)
        for way in settings.ways:
            score(way, count, _train(settings, way, count, data, config))
    return found


def recorded(count: int) -> int:
    """Episodes of which training sees ``count`` when some are held out."""
    total = count + 1
    while len(split_episodes(total)[0]) < count:
        total += 1
    return total


def write_results(out: Path, found: dict[tuple[str, int], Point]) -> None:
    """``points.json``, ``table.md`` and ``finetune.svg``."""
    write_json(out / "points.json", [{"way": way, "demonstrations": n, **p} for (way, n), p in found.items()])
    rows = [[way, str(count), *_texts(point)] for (way, count), point in found.items()]
    headings = ["way", "demonstrations", "success (95 %)", "action error, mm", "PSNR moving, dB"]
    (out / "table.md").write_text(markdown_table(headings, rows))
    panels = [_success(found), _open_loop(found)]
    (out / "finetune.svg").write_text(figure([panel for panel in panels if panel]))


def _check_same(settings: Finetune) -> None:
    free = {"out", "demonstrations", "ways", "workers", "device", "checkpoint"}
    facts = {name: value for name, value in vars(settings).items() if name not in free}
    facts["weights"] = weights_hash(settings.checkpoint)
    path = settings.out / "settings.json"
    if path.is_file():
        stored = json.loads(path.read_text())
        changed = [name for name in facts if stored[name] != facts[name]]
        if changed:
            raise ValueError(f"out={settings.out} was begun with another {', '.join(changed)}: choose a new folder.")
    write_json(path, facts)


def _record(settings: Finetune, name: str, count: int, seed: int, config: Config, make_env: Callable) -> Path:
    folder, clip = settings.out / name, config.clip
    recording = Recording(make_env=make_env, width_px=clip.width_px, height_px=clip.height_px)
    collect(folder, [settings.task], count, recording, seed=seed, num_workers=settings.workers)
    return folder


def _train(settings: Finetune, way: Way, count: int, data: Path, config: Config) -> Path:
    """Train one cell, or find it trained; returns the folder of its policy."""
    run_folder = settings.out / f"{way}-{count}"
    policy = run_folder / "policy"
    if (policy / "config.json").is_file():
        return policy
    for other in settings.ways:  # the same clips through the same VAE
        latents = settings.out / f"{other}-{count}" / "latents"
        if (settings.out / f"{other}-{count}" / "policy").is_dir() and not (run_folder / "latents").is_dir():
            write_whole(run_folder / "latents", partial(shutil.copytree, latents, dirs_exist_ok=True))
    if way == "scratch":
        for part in ("vae", "text"):
            shutil.copytree(settings.checkpoint / part, run_folder / "frozen" / part, dirs_exist_ok=True)
    rates = {"full": settings.full_rate, "lora": settings.lora_rate, "scratch": settings.scratch_rate}
    changes = {
        "num_steps": settings.steps,
        "batch_size": settings.batch_size,
        "learning_rate": rates[way],
        "num_warmup_steps": min(50, settings.steps // 10),
        "action_loss_weight": settings.action_loss_weight,
        "validate_every": 0,
        "save_every": max(1, settings.steps // 4),
    }
    last = run_pipeline(
        config.name, data, run_folder, changes, vae=TINY_VAE, sources=Sources(every=settings.every),
        start=None if way == "scratch" else settings.checkpoint,
        how=Setup(precision=settings.precision, lora_rank=settings.lora_rank if way == "lora" else 0),
        device=settings.device,
    )  # fmt: skip
    export_policy(last, policy, dtype=torch.float32)
    return policy


def _texts(point: Point) -> list[str]:
    success = "–"
    if "wins" in point:
        low, high = wilson_interval(int(point["wins"]), int(point["episodes"]))
        success = f"{point['wins'] / point['episodes']:.0%} ({low:.0%} to {high:.0%})"
    error, moving = 1000 * point.get("action_position_m", np.nan), point.get("moving_psnr_db", np.nan)
    return [success, "–" if np.isnan(error) else f"{error:.1f}", "–" if np.isnan(moving) else f"{moving:.2f}"]


def _success(found: dict[tuple[str, int], Point]) -> str | None:
    lines = []
    for way in dict.fromkeys(way for way, _ in found):
        rows = [(n, p["wins"], p["episodes"]) for (name, n), p in found.items() if name == way and "wins" in p]
        if rows:
            points = np.array([(n, wins / episodes) for n, wins, episodes in rows])
            interval = np.array([wilson_interval(int(wins), int(episodes)) for _, wins, episodes in rows])
            lines.append(Line(way, points, COLOURS[way], interval=interval))
    return line_chart(lines, "demonstrations", "success") if lines else None


def _open_loop(found: dict[tuple[str, int], Point]) -> str | None:
    lines = []
    for way in dict.fromkeys(way for way, _ in found):
        rows = [(n, 1000 * p["action_position_m"]) for (w, n), p in found.items() if w == way and "psnr_db" in p]
        if rows:
            lines.append(Line(way, np.array(rows, dtype=float), COLOURS[way]))
    return line_chart(lines, "demonstrations", "action error, mm") if lines else None


if __name__ == "__main__":
    chosen = tyro.cli(Finetune, description=__doc__)
    run(chosen)
    print((chosen.out / "table.md").read_text())
