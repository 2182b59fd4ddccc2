"""The page of ``xwam check data``: the verdict, what the model will see, and the numbers it will learn.

Writes ``contact_sheet.png`` (needs Pillow), ``findings.json`` and ``check.html``, which holds all of it.
"""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from xwam.check.data import is_wrong
from xwam.check.data_subject import Finding
from xwam.config import ClipConfig
from xwam.data.augment import centre_crop
from xwam.data.clips import Clips, evenly_spaced
from xwam.data.episodes import Episodes
from xwam.encode import depth_to_image
from xwam.evaluate.report_plots import REAL, Line, line_chart
from xwam.images import encoded
from xwam.records import Clip
from xwam.robot.layout import layout_slices

ROWS = 4  # clips on the contact sheet
COLOURS = (REAL, "#d9730d", "#2a7f62", "#8a4fbf", "#b03060", "#666666", "#1f6f9f")
MISSING = "the contact sheet needs Pillow: pip install 'xwam[view]'"
WORDS = {"wrong": "WRONG", "look": "look", "fine": "fine"}


def write_data_report(out: Path, findings: Sequence[Finding], episodes: Episodes | None, clip: ClipConfig) -> None:
    """Write the page and its pieces; ``episodes=None``: the data set could not be opened, so there are no pictures."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "findings.json").write_text(json.dumps([finding._asdict() for finding in findings], indent=1) + "\n")
    pieces = [_table(findings)]
    if episodes is not None:
        png = encoded(contact_sheet(episodes, clip), "PNG", missing=MISSING)
        (out / "contact_sheet.png").write_bytes(png)
        names = html.escape(", ".join(camera.name for camera in episodes.cameras))
        words = f"{names}: first, middle and last frame of a clip, then depth where it is known (near is bright)"
        words += f", cropped and resized to {clip.width_px} x {clip.height_px}."
        image = base64.b64encode(png).decode()
        style = "image-rendering:pixelated;max-width:100%"
        pieces.append(f"<h2>What the model will see</h2><p>{words}</p>")
        pieces.append(f'<img src="data:image/png;base64,{image}" style="{style}">')
        pieces.append(_plots(episodes))
    verdict = "Correct this before you train" if is_wrong(list(findings)) else "Nothing wrong was found"
    page = f"<!doctype html><meta charset=utf-8><title>{verdict}</title><body style='font:15px sans-serif;margin:2em'>"
    (out / "check.html").write_text(f"{page}<h1>{verdict}</h1>{''.join(pieces)}</body>\n")


def contact_sheet(episodes: Episodes, clip: ClipConfig) -> UInt8[np.ndarray, "H W 3"]:
    """A row for each of some episodes: for each camera the first, middle and last frame of a clip, and its depth."""
    names = [camera.name for camera in episodes.cameras]
    clips = Clips(episodes, clip, names, split="all", validation_share=0.0)
    rows = [
        _row(centre_crop(clips.at(number, 0), crop=clip.crop)) for number in evenly_spaced(episodes.num_episodes, ROWS)
    ]
    return np.concatenate(rows, axis=0)


def _row(clip: Clip) -> UInt8[np.ndarray, "H W 3"]:
    last = len(clip.state) - 1
    tiles = []
    for view, camera in enumerate(clip.cameras):
        tiles += [clip.video[view, frame] for frame in (0, last // 2, last)]
        if clip.depth is not None and clip.depth_mask[view].any():
            image = depth_to_image(clip.depth[view, 0], camera.near_m, camera.far_m)
            grey = np.rint((image + 1) * 127.5).astype(np.uint8)
        else:
            grey = np.zeros(clip.video.shape[2:4], np.uint8)
        tiles.append(np.repeat(grey[..., None], 3, axis=-1))
    return np.concatenate(tiles, axis=1)


def _table(findings: Sequence[Finding]) -> str:
    colours = {"wrong": "#c0392b", "look": "#b7791f", "fine": "#2a7f62"}
    rows = [
        f"<tr><td style='color:{colours[f.level]};font-weight:bold'>{WORDS[f.level]}</td>"
        f"<td>{html.escape(f.check)}</td><td>{html.escape(f.text)}</td></tr>"
        for f in sorted(findings, key=lambda finding: list(colours).index(finding.level))
    ]
    return f"<table cellpadding=4>{''.join(rows)}</table>"


def _plots(episodes: Episodes) -> str:
    """Every used part of the first episode over time, states and actions."""
    info = episodes.info(0)
    charts = []
    for what, parts, rows in (
        ("state", episodes.layout.state, info.state),
        ("action", episodes.layout.action, info.action),
    ):
        for part, slots in layout_slices(parts):
            if not part.is_used:
                continue
            seconds = np.arange(len(rows)) / episodes.action_hz
            lines = [
                Line(str(slot), np.stack([seconds, rows[:, place].astype(float)], axis=1), COLOURS[slot % len(COLOURS)])
                for slot, place in enumerate(range(slots.start, slots.stop))
            ]
            charts.append(line_chart(lines, "seconds", f"{what} {part.name} [{part.unit}]"))
    return f"<h2>The first episode, in our units</h2><div>{''.join(charts)}</div>"
