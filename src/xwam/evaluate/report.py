"""The report: one page that shows what the robot did, what the model had imagined, and how good both are.

Opens from a file, asks nothing of the network. Numbers of images and depth are means over the static cameras and the
future frames that were really seen; success has its 95 % Wilson interval.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xwam.data.files import whole_file
from xwam.evaluate import metrics
from xwam.evaluate.report_episode import Decision, EpisodeReport, decision_scores, episode_section, latencies
from xwam.evaluate.report_plots import IMAGINED, Line, histogram, interval_chart, line_chart
from xwam.evaluate.report_style import SCRIPT, STYLE

__all__ = ["Decision", "EpisodeReport", "decision_scores", "write_report"]

NUMBERS = {
    "psnr_db": ("Image, PSNR", 1, ".1f", "dB", "last frame copied: "),
    "moving_psnr_db": ("PSNR where it moves", 1, ".1f", "dB", "last frame copied: "),
    "ssim": ("Image, SSIM", 1, ".3f", "", "1 is equal"),
    "abs_rel": ("Depth error", 100, ".1f", "%", "mean, of the true depth"),
    "chamfer_m": ("Point cloud", 1000, ".1f", "mm", "Chamfer distance to the real one"),
    "f_10mm": ("Cloud, F-score", 1, ".2f", "", "at 10 mm; 1 is equal"),
    "path_m": ("Hand path", 100, ".1f", "cm", "imagined from executed"),
}
"""Numbers for the top of the page: (label, factor, format, unit, explanation)."""
FEW = 4  # decisions; fewer make no histogram
BASELINES = {"psnr_db": "psnr_copy_db", "moving_psnr_db": "moving_psnr_copy_db"}
"""Which number stands beside which: the same for the last frame seen, copied."""


def write_report(out: Path, episodes: Sequence[EpisodeReport], summary: Mapping[str, Any]) -> None:
    """Write the page ``out`` (a ``.html`` file; 4D pages should lie beside or below it).

    ``summary`` may hold ``title``, the numbers of NUMBERS and BASELINES (where they are missing, images, depth and
    hand path are computed from the episodes), and anything else, which is listed at the end as "how this was made":
    seeds, versions, commands.
    """
    if out.suffix != ".html":
        raise ValueError(f"out={out}: the file's name must end in .html.")
    if not episodes:
        raise ValueError("episodes=[]: a report needs at least one episode.")
    title = str(summary.get("title", "X-WAM: what the robot did and what it imagined"))
    scores = [[decision_scores(d, e.layout) for d in e.decisions] for e in episodes]
    sections = [
        episode_section(i, e, rows, out.parent) for i, (e, rows) in enumerate(zip(episodes, scores, strict=True), 1)
    ]
    decisions = [d for e in episodes for d in e.decisions]
    flat = [row for rows in scores for row in rows]
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body><main><h1>{html.escape(title)}</h1>"
        '<p class="faint">The robot gets its actions at once; the model then goes on to imagine what the cameras will '
        "see, in colour and depth. Real is shown beside imagined.</p>"
        f"{_tiles(episodes, decisions, flat, summary)}{_charts(episodes, decisions, flat)}{''.join(sections)}"
        f"{_details(summary)}</main><script>{SCRIPT}</script></body></html>\n"
    )
    with whole_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


# --- the top ----------------------------------------------------------------------------------------------------


def _tiles(
    episodes: Sequence[EpisodeReport], decisions: Sequence[Decision], scores: list[dict], summary: Mapping[str, Any]
) -> str:
    wins = sum(e.success for e in episodes)
    low, high = metrics.wilson_interval(wins, len(episodes))
    rows = [("Success", f"{wins} <small>of {len(episodes)}</small>", f"true rate {low:.0%} to {high:.0%} (95 %)")]
    if decisions:
        actions, world = np.median([latencies(d.imagined) for d in decisions], axis=0)
        rows.append(("Actions after", _duration(actions), f"median of {len(decisions)} decisions"))
        if world > actions:
            rows.append(("World after", _duration(world), "video, depth and states"))
    means = {name: np.mean([np.mean(r[name]) for r in scores if name in r]) for name in {n for r in scores for n in r}}
    numbers = {**means, **summary}
    for name, (label, factor, form, unit, explanation) in NUMBERS.items():
        baseline = BASELINES.get(name)
        if name in numbers and np.isfinite(numbers[name]):
            beside = f"{factor * numbers[baseline]:{form}}" if baseline in numbers else "unknown" if baseline else ""
            value = f"{factor * numbers[name]:{form}} <small>{unit}</small>"
            rows.append((label, value, explanation + beside))
    tiles = (
        f'<div class="tile">{name}<b>{value}</b><span class="faint">{why}</span></div>' for name, value, why in rows
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} <small>ms</small>"
    return f"{seconds:.1f} <small>s</small>"


def _charts(episodes: Sequence[EpisodeReport], decisions: Sequence[Decision], scores: list[dict]) -> str:
    """Success per task, decay of imagination over the horizon, latency."""
    charts = []
    tasks = sorted({e.task for e in episodes})
    rows = []
    for task in tasks:
        results = [e.success for e in episodes if e.task == task]
        low, high = metrics.wilson_interval(sum(results), len(results))
        rows.append((task, low, sum(results) / len(results), high))
    charts.append((interval_chart(rows), "Success per task; the bar is the 95 % interval of the true rate."))
    scored = [(row, d.imagined.frame_hz) for row, d in zip(scores, decisions, strict=True) if row]
    if scored:
        lines = [
            Line("imagined", _mean_over_time([r["psnr_db"] for r, _ in scored], scored[0][1]), IMAGINED),
            Line(
                "last frame copied",
                _mean_over_time([r["psnr_copy_db"] for r, _ in scored], scored[0][1]),
                "#5b6472",
                True,
            ),
        ]
        charts.append((line_chart(lines, "seconds from now", "PSNR (dB)"), "How fast imagination decays."))
    if len(decisions) >= FEW:
        times = [1000 * latencies(d.imagined)[0] for d in decisions]
        charts.append((histogram(times, "ms until the actions"), "How long the robot waits; dashed: the median."))
    figures = (f'<figure class="card">{plot}<figcaption>{words}</figcaption></figure>' for plot, words in charts)
    return f'<div class="charts">{"".join(figures)}</div>'


def _mean_over_time(curves: Sequence[np.ndarray], frame_hz: float) -> np.ndarray:
    """Curves of different lengths to one: at each step the mean of those that reach it."""
    longest = max(len(curve) for curve in curves)
    means = [np.mean([curve[k] for curve in curves if len(curve) > k]) for k in range(longest)]
    return np.stack([np.arange(1, longest + 1) / frame_hz, means], axis=1)


def _details(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, value in summary.items():
        if name not in {"title", *NUMBERS, *BASELINES.values()}:
            rows.append(f"<tr><td>{html.escape(name)}</td><td>{html.escape(_plain(value))}</td></tr>")
    return f'<h2>How this was made</h2><div class="card"><table>{"".join(rows)}</table></div>' if rows else ""


def _plain(value: Any) -> str:
    """A value in words: four digits are enough for a person."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(inner) for inner in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
