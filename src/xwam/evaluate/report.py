"""The report: one page that shows what the robot did, what the model had imagined, and how good both are.

Opens from a file, asks nothing of the network. Numbers of images and depth are means over the static cameras and the
future frames that were really seen; success has its 95 % Wilson interval.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xwam.evaluate import metrics
from xwam.evaluate.compare import ended, finite_mean, summarize
from xwam.evaluate.report_charts import ENDINGS, ROWS, Totals, charts, copied, table
from xwam.evaluate.report_episode import EpisodeReport, decision_scores, episode_section, latencies
from xwam.evaluate.report_style import SCRIPT, STYLE
from xwam.files import write_text

NUMBERS = {
    "psnr_db": ("Image, PSNR", 1, ".1f", "dB", ""),
    "moving_psnr_db": ("PSNR where it moves", 1, ".1f", "dB", ""),
    "ssim": ("Image, SSIM", 1, ".3f", "", "1 is equal"),
    "lpips": ("Image, LPIPS", 1, ".3f", "", "0 is equal"),
    "abs_rel": ("Depth error", 100, ".1f", "%", "mean, of the true depth"),
    "chamfer_m": ("Point cloud", 1000, ".1f", "mm", "Chamfer distance to the real one"),
    "near_chamfer_m": ("Cloud near the hand", 1000, ".1f", "mm", "Chamfer distance within 40 cm"),
    "region_chamfer_m": ("Cloud in the region", 1000, ".1f", "mm", "Chamfer distance in the box asked for"),
    "f_10mm": ("Cloud, F-score", 1, ".2f", "", "at 10 mm; 1 is equal"),
    "consistency_m": ("Views differ by", 1000, ".1f", "mm", "median, where imagined ones agree within 5 cm"),
    "seen_through": ("Seen through", 100, ".1f", "%", "of the points, by another imagined view: off by more than 5 cm"),
    "path_m": ("Hand path", 100, ".1f", "cm", "imagined from executed"),
}
"""Numbers for the top of the page: (label, factor, format, unit, explanation)."""


SEEN = "imagine what the cameras will see, in colour and depth."
GUESSED = f"The robot gets its actions at once; the model then goes on to {SEEN}"
TOLD = f"The model was told the actions and the states they led through, to {SEEN}"


def write_report(
    out: Path,
    episodes: Sequence[EpisodeReport],
    summary: Mapping[str, Any],
    *,
    totals: Totals | None = None,
    is_alone: bool = False,
) -> None:
    """Write the page ``out`` (a ``.html`` file; 4D pages should lie beside or below it).

    ``summary`` may hold ``title``, scores (``evaluate/compare.py``; where they are missing, some are computed from the
    episodes), and anything else, which is listed at the end as "how this was made": seeds, versions, commands.
    ``totals``: what the plots are about, if it is more than these episodes. ``is_alone`` puts the 4D pages into the
    report, so that it is one file to mail; else they are linked.
    """
    if out.suffix != ".html":
        raise ValueError(f"out={out}: the file's name must end in .html.")
    if not episodes:
        raise ValueError("episodes=[]: a report needs at least one episode.")
    title = str(summary.get("title", "X-WAM: what the robot did and what it imagined"))
    scores = [[decision_scores(d, e.layout) for d in e.decisions] for e in episodes]
    folder = None if is_alone else out.parent
    sections = [
        episode_section(i, e, rows, folder) for i, (e, rows) in enumerate(zip(episodes, scores, strict=True), 1)
    ]
    flat = [row for rows in scores for row in rows]
    totals = totals or _totals_of(episodes, flat)
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body><main><h1>{html.escape(title)}</h1>"
        f'<p class="faint">{TOLD if any(d.is_told for e in episodes for d in e.decisions) else GUESSED} '
        "Real is shown beside imagined.</p>"
        f"{_tiles(totals, flat, summary)}{charts(totals)}{''.join(sections)}{table(summary)}"
        f"{_details(summary)}</main><script>{SCRIPT}</script></body></html>\n"
    )
    write_text(out, text)


# --- the top ----------------------------------------------------------------------------------------------------


def _tiles(totals: Totals, scores: list[dict], summary: Mapping[str, Any]) -> str:
    rows = []
    if totals.tasks:
        wins, trials = (sum(column) for column in zip(*totals.tasks.values(), strict=True))
        low, high = metrics.wilson_interval(wins, trials)
        words = f"true rate {low:.0%} to {high:.0%} (95 %)"
        rows.append(("Success", f"{wins} <small>of {trials}</small>", words))
    if len(totals.action_seconds):
        words = "; ".join(filter(None, [f"median of {len(totals.action_seconds)} decisions", totals.of_batch]))
        rows.append(("Actions after", _duration(float(np.median(totals.action_seconds))), words))
    if len(totals.world_seconds):
        words = "; ".join(filter(None, ["video, depth and states", totals.of_shown]))
        rows.append(("World after", _duration(float(np.median(totals.world_seconds))), words))
    names = {name for row in scores for name in row}
    means = {n: float(finite_mean(np.array([np.mean(row[n]) for row in scores if n in row]))) for n in names}
    numbers = {**means, **summary}
    for name, (label, factor, form, unit, explanation) in NUMBERS.items():
        if isinstance(numbers.get(name), float) and np.isfinite(numbers[name]):
            still = numbers.get(ended(name, "_copy"))
            beside = [f"{copied(name)}: {factor * still:{form}}"] if still is not None else []
            value = f"{factor * numbers[name]:{form}} <small>{unit}</small>"
            rows.append((label, value, "; ".join(filter(None, [explanation, *beside, totals.of_shown]))))
    tiles = (
        f'<div class="tile">{name}<b>{value}</b><span class="faint">{why}</span></div>' for name, value, why in rows
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} <small>ms</small>"
    return f"{seconds:.1f} <small>s</small>"


def _totals_of(episodes: Sequence[EpisodeReport], scores: list[dict]) -> Totals:
    """Totals of the episodes shown, where nothing else is said."""
    seconds = [latencies(d.imagined) for e in episodes for d in e.decisions]
    played = [e for e in episodes if e.success is not None]
    tasks = {e.task: [p.success for p in played if p.task == e.task] for e in played}
    return Totals(
        tasks={task: (sum(map(bool, results)), len(results)) for task, results in tasks.items()},
        action_seconds=[actions for actions, _ in seconds],
        world_seconds=[world for actions, world in seconds if world > actions],
        per_step=summarize([{k: np.asarray(v) for k, v in row.items()} for row in scores])["per_step"],
        frame_hz=next((d.imagined.frame_hz for e in episodes for d in e.decisions), 1.0),
    )


def _details(summary: Mapping[str, Any]) -> str:
    known = {"title", "standard_error", *(ended(name, ending) for name in (*NUMBERS, *ROWS) for ending in ENDINGS)}
    rows = []
    for name, value in summary.items():
        if name not in known:
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
