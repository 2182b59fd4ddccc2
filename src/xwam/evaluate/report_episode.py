"""One episode of the report: every decision's real and imagined video, the hand's path, the time of every stage."""

import base64
import gzip
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from xwam.colours import depth_range, depth_to_colours
from xwam.evaluate import geometry_metrics, metrics
from xwam.evaluate.compare import within_range
from xwam.evaluate.report_pictures import strip
from xwam.evaluate.report_plots import IMAGINED, REAL, Line, path_plot
from xwam.records import Prediction
from xwam.robot.layout import Layout
from xwam.view.html import write_page
from xwam.view.points import has_points

ACTIONS_STAGE = "actions"  # the stage of ``Prediction.seconds`` after which the robot can move
STAGE_COLOURS = ("#0072b2", "#56b4e9", "#e69f00", "#b3b9c2", "#cc79a7", "#009e73")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One look at the world: what was imagined, and what then happened (cropped as the model sees; may be shorter)."""

    imagined: Prediction
    real: Prediction | None = None
    page: Path | None = None  # its 4D page, linked relative to the report
    is_told: bool = False  # actions and states were given (forward dynamics): no path to judge


@dataclass(frozen=True, kw_only=True)
class EpisodeReport:
    """One episode, as the report shows it."""

    task: str
    instruction: str
    seed: int
    success: bool | None  # None: nobody played, a recording is compared with what was imagined
    num_steps: int  # actions played
    layout: Layout
    decisions: Sequence[Decision]
    label: str = ""  # "best of 32", say; otherwise the episode's number


def episode_section(number: int, episode: EpisodeReport, scores: Sequence[dict[str, Any]], folder: Path | None) -> str:
    """The episode as HTML. ``folder``: where the report lies, for links to 4D pages; None puts them inside."""
    badge = ""
    if episode.success is not None:
        verdict, words = ("success", "success") if episode.success else ("failure", "no success")
        badge = f' <span class="badge {verdict}">{words}</span>'
    cards = (
        _decision_card(i, decision, row, folder)
        for i, (decision, row) in enumerate(zip(episode.decisions, scores, strict=True), 1)
    )
    name = html.escape(episode.label or f"Episode {number}")
    return (
        f"<section><h2>{name}: {html.escape(episode.task)}{badge}</h2>"
        f'<p class="faint">&ldquo;{html.escape(episode.instruction)}&rdquo;, {episode.num_steps} actions, '
        f"seed {episode.seed}</p>{''.join(cards)}{_paths(episode)}{_stages(episode.decisions)}</section>"
    )


def _decision_card(number: int, decision: Decision, scores: dict[str, Any], folder: Path | None) -> str:
    """Real and imagined side by side, with one slider for all of them."""
    imagined, real = decision.imagined, decision.real
    figures = _figures(imagined, real)
    num_frames = len(imagined.state) if imagined.video is None else imagined.video.shape[1]
    last_seen = num_frames - 1 if real is None or real.video is None else min(real.video.shape[1], num_frames) - 1
    link, scene = _page(decision, folder)
    if not figures:
        return (
            f'<div class="card"><div class="head"><h3>Decision {number}</h3>{link}</div>'
            '<p class="note">Only actions were asked for: nothing was imagined here.</p></div>'
        )
    return (
        f'<div class="card" data-frames="{num_frames}" data-hz="{imagined.frame_hz:g}"><div class="head">'
        f'<h3>Decision {number}</h3><span class="faint">{_numbers(scores)}</span>{link}</div>{scene}{figures}'
        f'<div class="player"><button type="button">Play</button><input type="range" min="0" max="{num_frames - 1}" '
        f'value="{last_seen}" aria-label="time within decision {number}"><output>now</output></div></div>'
    )


def _page(decision: Decision, folder: Path | None) -> tuple[str, str]:
    """The way to a decision's 4D page: a link, or a button and the page itself (compressed; the script unpacks it)."""
    if decision.page is None:
        return "", ""
    if folder is not None:
        where = quote(os.path.relpath(decision.page, folder).replace(os.sep, "/"))
        return f'<a class="page" href="{where}">Open in 4D</a>', ""
    packed = base64.b64encode(gzip.compress(decision.page.read_bytes(), 9, mtime=0)).decode("ascii")
    button = '<button type="button" class="world">Show in 4D</button>'
    return button, f'<div class="world"></div><script type="application/gzip">{packed}</script>'


def _numbers(scores: dict[str, Any]) -> str:
    parts = []
    if "psnr_db" in scores:
        ours, copied = np.mean(scores["psnr_db"]), np.mean(scores["psnr_copy_db"])
        parts.append(f"PSNR {ours:.1f} dB (last frame copied: {copied:.1f})")
    if "abs_rel" in scores and np.isfinite(scores["abs_rel"]):
        parts.append(f"depth error {scores['abs_rel']:.1%}")
    if "path_m" in scores:
        parts.append(f"hand path error {100 * np.mean(scores['path_m']):.1f} cm")
    return " &middot; ".join(parts)


def _figures(imagined: Prediction, real: Prediction | None) -> str:
    """Pairs of picture strips: colour, then depth, each view of depth on its own scale, real and imagined alike."""
    if imagined.video is None:
        return ""
    names = "".join(f"<span>{html.escape(c.name)}</span>" for c in imagined.cameras)
    worlds = [("real", real)] if real is not None and real.video is not None else []
    worlds.append(("imagined", imagined))
    rows = [[(kind, "video", world.video) for kind, world in worlds if world is not None and world.video is not None]]
    depths = [(kind, world.depth) for kind, world in worlds if world is not None and world.depth is not None]
    if depths:
        ranges = [depth_range(view) for view in depths[0][1]]
        rows.append(
            [
                (kind, "depth", np.stack([depth_to_colours(v, *span) for v, span in zip(depth, ranges, strict=True)]))
                for kind, depth in depths
            ]
        )
    parts = []
    for row in rows:
        parts.append('<div class="pair">')
        for kind, what, video in row:
            caption = kind if what == "video" else f"{kind} depth"
            alt = f"{caption}, one column per camera"
            parts.append(
                f'<figure><figcaption><span class="{kind}">{caption}</span></figcaption>{strip(video, alt)}'
                f'<figcaption class="views">{names}</figcaption></figure>'
            )
        parts.append("</div>")
    if depths:
        scale = ", ".join(
            f"{html.escape(camera.name)} {near:.2f} to {far:.2f} m"
            for camera, (near, far) in zip(imagined.cameras, ranges, strict=True)
        )
        parts.append(f'<p class="note">Depth: yellow is near, violet is far, grey is unknown ({scale}).</p>')
    return "".join(parts)


def _paths(episode: EpisodeReport) -> str:
    """Imagined and executed hand paths from three sides, one row per arm in use."""
    hands = episode.layout.hands
    if not (hands and episode.decisions):
        return ""
    rows = []
    for hand, where in hands:
        lines = []
        for decision in episode.decisions:
            if decision.real is not None:
                lines.append(("executed", decision.real.state[:, where], REAL, False))
            if not decision.is_told:
                lines.append(("imagined", decision.imagined.state[:, where], IMAGINED, True))
        figures = []
        for first, second in ((0, 1), (0, 2), (1, 2)):
            flat = [Line(name, path[:, [first, second]], colour, dash) for name, path, colour, dash in lines]
            plot = path_plot(flat, f"{'xyz'[first]} (m)", f"{'xyz'[second]} (m)")
            figures.append(f'<figure class="card">{plot}</figure>')
        title = f'<p class="note">{html.escape(hand)} hand</p>' if len(hands) > 1 else ""
        rows.append(f'{title}<div class="charts">{"".join(figures)}</div>')
    return (
        '<p>Path of the hand, from above and from two sides: <span class="real">executed, solid</span>; '
        '<span class="imagined">imagined, dashed</span>. A ring marks where a decision began.</p>' + "".join(rows)
    )


def _stages(decisions: Sequence[Decision]) -> str:
    """One bar per decision: how long each stage took; the robot moves after the stage of the actions."""
    longest = max((latencies(d.imagined)[1] for d in decisions), default=0.0)
    if longest <= 0:
        return ""
    names = list(dict.fromkeys(name for d in decisions for name in d.imagined.seconds))
    colours = {name: STAGE_COLOURS[i % len(STAGE_COLOURS)] for i, name in enumerate(names)}
    bars = []
    for number, decision in enumerate(decisions, 1):
        actions, total = latencies(decision.imagined)
        pieces = "".join(
            f'<span style="width:{100 * spent / longest:.2f}%;background:{colours[name]}" '
            f'title="{html.escape(name)}: {1000 * spent:.0f} ms"></span>'
            for name, spent in decision.imagined.seconds.items()
        )
        first = "" if decision.is_told else f"actions after {1000 * actions:.0f} ms, "
        bars.append(
            f'<div class="faint">decision {number}: {first}everything after {1000 * total:.0f} ms</div>'
            f'<div class="stage">{pieces}</div>'
        )
    median = {n: 1000 * np.median([d.imagined.seconds[n] for d in decisions if n in d.imagined.seconds]) for n in names}
    keys = "".join(
        f'<span class="key" style="background:{colours[n]}"></span>{html.escape(n)} {median[n]:.0f} ms' for n in names
    )
    return f'<div class="card"><h3>Time per stage</h3>{"".join(bars)}<div class="faint">medians: {keys}</div></div>'


def latencies(prediction: Prediction) -> tuple[float, float]:
    """Seconds until the actions were ready, and until the world was."""
    seconds, until_actions = 0.0, 0.0
    for stage, spent in prediction.seconds.items():
        seconds += spent
        if stage == ACTIONS_STAGE:
            until_actions = seconds
    return until_actions or seconds, seconds


def decision_scores(decision: Decision, layout: Layout) -> dict[str, Any]:
    """Numbers of one decision over the steps that really happened; empty without real images of the same size.

    ``abs_rel`` is a single number, the rest are curves over the future frames (names of evaluate/compare.py).
    """
    imagined, real = decision.imagined, decision.real
    if real is None or imagined.video is None or real.video is None:
        return {}
    count = min(imagined.video.shape[1], real.video.shape[1])
    if count < 2 or imagined.video.shape[2:] != real.video.shape[2:] or len(imagined.video) != len(real.video):
        return {}
    static = metrics.static_views(imagined.cameras)
    video, truth = imagined.video[static][:, :count], real.video[static][:, :count]
    scores: dict[str, Any] = {
        "psnr_db": metrics.psnr(video, truth)[:, 1:].mean(axis=0),
        "psnr_copy_db": metrics.psnr(metrics.copy_last_frame(truth), truth)[:, 1:].mean(axis=0),
    }
    real = within_range(real)
    if imagined.depth is not None and real.depth is not None:
        depth = metrics.depth_scores(imagined.depth[static][:, 1:count], real.depth[static][:, 1:count])
        scores["abs_rel"] = depth.abs_rel
    executed = real.state[:count]
    for name, states in (("path_m", imagined.state[:count]), ("path_copy_m", executed[:1].repeat(count, axis=0))):
        paths = geometry_metrics.hand_path_scores(states, executed, layout)
        if paths and not decision.is_told:
            scores[name] = np.mean([path.steps_m[1:] for path in paths.values()], axis=0)
    return scores


def best_median_worst(values: Sequence[float]) -> list[tuple[str, int]]:
    """Which of some values (higher is better) to look at: ("best of 32", place) and so on; fewer when there are few."""
    order = np.argsort(-np.asarray(values), kind="stable").tolist()
    places = {"Best": order[0], "Median": order[len(order) // 2], "Worst": order[-1]}
    found = list(dict.fromkeys(places.values()))
    names = {place: name for name, place in reversed(places.items())}
    return [(f"{names[place]} of {len(order)}", place) for place in found]


def page_of(
    path: Path, imagined: Prediction, layout: Layout, *, real: Prediction | None = None, title: str
) -> Path | None:
    """Write the 4D page and return ``path``; None where nothing of what was imagined has a place in space."""
    if not has_points(imagined, layout):
        return None
    in_space = None if real is None or real.depth is None else real
    write_page(path, imagined, layout, real=in_space, title=title)
    return path
