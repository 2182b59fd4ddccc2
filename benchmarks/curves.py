"""How many steps, and how often to think? One checkpoint, asked in many ways.

    python benchmarks/curves.py checkpoints/tiny --data runs/tiny/data --out runs/curves

- action steps 1, 2, 3, 5, 10 (of 50 video steps);
- video steps 5, 10, 25, 50 (with 5 action steps, so that even the shortest has them);
- 4, 8, 16, 32 actions played of every chunk before the next decision (as many steps as the checkpoint says).

Success (Wilson's interval) is counted on unseen placements; PSNR and Chamfer (t over clips) on held-out clips.
Interrupt and repeat at will. Writes ``table.md``, ``curves.svg`` and one folder per point.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from xwam.evaluate.metrics import wilson_interval
from xwam.evaluate.report_plots import IMAGINED, Line, figure, line_chart
from xwam.evaluate.study import Point, Trial, markdown_table, measure, with_steps
from xwam.files import write_json
from xwam.policy import load_policy

FEWEST = 5  # action steps while the video steps vary


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Which points, and how they are scored."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    data: Path
    tasks: tuple[str, ...]
    out: Path = Path("runs/curves")
    action_steps: tuple[int, ...] = (1, 2, 3, 5, 10)
    video_steps: tuple[int, ...] = (5, 10, 25, 50)
    replan_every: tuple[int, ...] = (4, 8, 16, 32)
    episodes: int = 10  # per task
    max_steps: int = 100  # actions per episode
    clips: int = 16  # held-out clips
    seed: int = 1  # which unseen placements; 0 are those of `xwam evaluate`
    envs: int = 1
    device: str = "cpu"


class Asked(NamedTuple):
    """One point: which curve, its x, steps of inference, and how the closed loop plays."""

    curve: str
    x: int
    steps: dict[str, int]
    trial: Trial


def points_of(settings: Curves) -> list[Asked]:
    """All points of all curves."""
    trial = Trial(
        tasks=settings.tasks, num_episodes=settings.episodes, data=settings.data, num_clips=settings.clips,
        seed=settings.seed, max_steps=settings.max_steps, num_envs=settings.envs,
    )  # fmt: skip
    most, fewest = max(settings.video_steps), min(FEWEST, *settings.video_steps)
    points = [
        Asked("action steps", n, {"num_video_steps": most, "num_action_steps": n}, trial) for n in settings.action_steps
    ]
    points += [
        Asked("video steps", n, {"num_video_steps": n, "num_action_steps": fewest}, trial) for n in settings.video_steps
    ]
    blind = replace(trial, num_clips=0)  # what is imagined does not depend on what is played of it
    return points + [Asked("actions played", n, {}, replace(blind, replan_every=n)) for n in settings.replan_every]


def run(settings: Curves) -> None:
    """Score whatever is not finished; table and plots are written anew after every point."""
    policy = load_policy(settings.checkpoint, device=settings.device)
    found: dict[tuple[str, int], Point] = {}
    for asked in points_of(settings):
        folder = settings.out / f"{asked.curve.replace(' ', '-')}-{asked.x:02d}"
        found[asked.curve, asked.x] = measure(with_steps(policy, **asked.steps), folder, asked.trial)
        write_results(settings.out, found)


def write_results(out: Path, found: dict[tuple[str, int], Point]) -> None:
    """``points.json``, ``table.md`` and ``curves.svg``."""
    rows = [[curve, str(x), *_texts(point)] for (curve, x), point in found.items()]
    headings = ["curve", "x", "success (95 %)", "PSNR, dB", "PSNR moving, dB", "Chamfer, mm"]
    write_json(out / "points.json", [{"curve": curve, "x": x, **point} for (curve, x), point in found.items()])
    (out / "table.md").write_text(markdown_table(headings, rows))
    panels = []
    for curve in dict.fromkeys(curve for curve, _ in found):
        points = {x: point for (name, x), point in found.items() if name == curve}
        panels += [panel for panel in (_success(curve, points), *_worlds(curve, points)) if panel]
    (out / "curves.svg").write_text(figure(panels))


def _texts(point: Point) -> list[str]:
    success = "–"
    if "wins" in point:
        low, high = wilson_interval(int(point["wins"]), int(point["episodes"]))
        success = f"{point['wins'] / point['episodes']:.0%} ({low:.0%} to {high:.0%})"
    texts = [success]
    for name, factor, digits in (("psnr_db", 1, 2), ("moving_psnr_db", 1, 2), ("chamfer_m", 1000, 1)):
        mean, low, high = (factor * point.get(key, np.nan) for key in (name, f"{name}_low", f"{name}_high"))
        texts.append("–" if np.isnan(mean) else f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}")
    return texts


def _success(curve: str, points: dict[int, Point]) -> str | None:
    rows = [
        (x, p["wins"] / p["episodes"], *wilson_interval(int(p["wins"]), int(p["episodes"])))
        for x, p in points.items()
        if "wins" in p
    ]
    if not rows:
        return None
    numbers = np.array(rows)
    return line_chart([Line("success", numbers[:, :2], IMAGINED, interval=numbers[:, 2:])], curve, "success")


def _worlds(curve: str, points: dict[int, Point]) -> list[str]:
    panels = []
    for name, factor, heading in (("moving_psnr_db", 1, "PSNR moving, dB"), ("chamfer_m", 1000, "Chamfer, mm")):
        rows = [
            (x, *(factor * point.get(key, np.nan) for key in (name, f"{name}_low", f"{name}_high")))
            for x, point in points.items()
            if name in point
        ]
        if rows:
            numbers = np.array(rows)
            line = Line("imagined", numbers[:, :2], IMAGINED, interval=numbers[:, 2:])
            panels.append(line_chart([line], curve, heading))
    return panels


if __name__ == "__main__":
    settings = tyro.cli(Curves, description=__doc__)
    run(settings)
    print((settings.out / "table.md").read_text())
