"""The plots and the table at the top of the report: success, latency, and how fast imagination decays."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from xwam.evaluate.compare import ended
from xwam.evaluate.metrics import wilson_interval
from xwam.evaluate.report_plots import IMAGINED, Line, histogram, interval_chart, line_chart

FEW = 4  # decisions; fewer make no histogram
GREY, GREEN, VIOLET = "#5b6472", "#009e73", "#7b3294"
DECAYS = {
    "psnr_db": ("PSNR (dB)", 1, "How fast the images decay (static cameras)."),
    "abs_rel": ("depth error, AbsRel (%)", 100, "How fast the depth decays (static cameras)."),
    "chamfer_m": ("Chamfer distance (mm)", 1000, "How fast the fused cloud leaves the real one."),
    "path_m": ("hand path error (mm)", 1000, "How far the imagined hand is from the executed one."),
}
"""Curves over the horizon: (name of the axis, factor, explanation)."""
ENDINGS = {
    "": "imagined",
    "_copy": "last frame copied",
    "_vae": "reality through the autoencoder",
    "_aligned": "imagined, scale aligned",
    "_teacher": "estimator on imagined pictures",
    "_teacher_aligned": "estimator, aligned",
}
"""What a score is about, by the ending of its name (evaluate/compare.py)."""
ROWS = {
    "psnr_db": ("PSNR, static cameras", 1, ".2f", "dB"),
    "moving_psnr_db": ("PSNR where it moves", 1, ".2f", "dB"),
    "ssim": ("SSIM", 1, ".3f", ""),
    "lpips": ("LPIPS", 1, ".3f", ""),
    "abs_rel": ("AbsRel", 1, ".4f", ""),
    "rmse_m": ("RMSE of depth", 100, ".2f", "cm"),
    "delta1": ("delta 1", 1, ".3f", ""),
    "delta2": ("delta 2", 1, ".3f", ""),
    "delta3": ("delta 3", 1, ".3f", ""),
    "coverage": ("known depth", 1, ".1%", ""),
    "chamfer_m": ("Chamfer distance", 1000, ".1f", "mm"),
    "near_chamfer_m": ("Chamfer distance within 40 cm of the hand", 1000, ".1f", "mm"),
    "region_chamfer_m": ("Chamfer distance in the region", 1000, ".1f", "mm"),
    "f_5mm": ("F-score at 5 mm", 1, ".3f", ""),
    "f_10mm": ("F-score at 10 mm", 1, ".3f", ""),
    "f_20mm": ("F-score at 20 mm", 1, ".3f", ""),
    "consistency_m": ("views differ by, where within 5 cm", 1000, ".1f", "mm"),
    "seen_through": ("points another view sees through", 1, ".1%", ""),
    "path_m": ("hand path error", 1000, ".1f", "mm"),
    "path_rotation_rad": ("hand path error, rotation", 180 / np.pi, ".2f", "degrees"),
    "action_position_m": ("action error, position per step", 1000, ".1f", "mm"),
    "action_rotation_rad": ("action error, rotation per step", 180 / np.pi, ".2f", "degrees"),
    "action_gripper": ("action error, gripper per step", 1, ".3f", ""),
    "action_joints_rad": ("action error, joints per step", 180 / np.pi, ".2f", "degrees"),
    "action_joints_m": ("action error, sliding joints per step", 1000, ".1f", "mm"),
    "action_command": ("action error, commands per step", 1, ".3f", ""),
}
"""The table: (label, factor, format, unit)."""
STILL = "hand stays where it is"


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What the top of the report is about: all that was played or imagined, not only the episodes shown below.

    But where ``num_shown`` says how many these are, they alone were imagined: worlds and their scores are theirs.
    """

    tasks: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # successes and trials; empty: nobody played
    action_seconds: Sequence[float] = ()  # until the actions, one per decision
    world_seconds: Sequence[float] = ()  # until the world
    per_step: Mapping[str, Sequence[float]] = field(default_factory=dict)  # curves over the future frames
    frame_hz: float = 1.0
    batch: int = 1  # so many requests at most were answered together
    num_shown: int | None = None

    @property
    def of_batch(self) -> str:
        """Words for seconds that several robots waited together; empty where each was answered by itself."""
        return "" if self.batch == 1 else f"compute time of a batch of up to {self.batch}"

    @property
    def of_shown(self) -> str:
        """Words for what only the episodes below were scored for; empty where everything was."""
        if self.num_shown is None:
            return ""
        return "over the episode below" if self.num_shown == 1 else f"over the {self.num_shown} episodes below"


def charts(totals: Totals) -> str:
    """Every plot that the totals can fill."""
    found = []
    if totals.tasks:
        rows = [(task, *_rate(*totals.tasks[task])) for task in sorted(totals.tasks)]
        words = "Success per task; the bar is the 95 % interval of the true rate."
        found.append((interval_chart([(task, low, rate, high) for task, rate, low, high in rows]), words))
    for name, (axis, factor, words) in DECAYS.items():
        lines = [
            Line(label, _curve(totals.per_step[key], totals.frame_hz, factor), colour, dashed)
            for ending, label, colour, dashed in (
                ("", ENDINGS[""], IMAGINED, False),
                ("_copy", copied(name), GREY, True),
                ("_vae", ENDINGS["_vae"], VIOLET, True),
                ("_teacher_aligned", ENDINGS["_teacher_aligned"], GREEN, True),
            )
            if (key := ended(name, ending)) in totals.per_step
        ]
        if lines:
            beside = f" {totals.of_shown.capitalize()}." if totals.of_shown else ""
            found.append((line_chart(lines, "seconds from now", axis), words + beside))
    if len(totals.action_seconds) >= FEW:
        plot = histogram([1000 * s for s in totals.action_seconds], "ms until the actions")
        what = "Compute time until the actions" if totals.batch == 1 else totals.of_batch.capitalize()
        found.append((plot, f"{what}; dashed: the median."))
    figures = (f'<figure class="card">{plot}<figcaption>{words}</figcaption></figure>' for plot, words in found)
    return f'<div class="charts">{"".join(figures)}</div>'


def copied(name: str) -> str:
    """What a score that ends in ``_copy`` is about."""
    return STILL if name.startswith("path_") else ENDINGS["_copy"]


def table(numbers: Mapping[str, object]) -> str:
    """All numbers of the imagined worlds beside their baselines; nothing where there is no baseline to show.

    ``numbers["standard_error"]``, where there is one, has what stands behind each of them as plus or minus.
    """
    columns = [e for e in ENDINGS if any(ended(name, e) in numbers for name in ROWS)]
    if len(columns) < 2:
        return ""
    names = ENDINGS | {"_copy": f"{ENDINGS['_copy']}; hand and actions: standing still"}
    head = "".join(f"<th>{names[ending]}</th>" for ending in columns)
    body = []
    errors = numbers.get("standard_error", {})
    assert isinstance(errors, Mapping)
    for name, (label, factor, form, unit) in ROWS.items():
        names_of_row = [ended(name, ending) for ending in columns]
        if any(numbers.get(one) is not None for one in names_of_row):
            cells = (_cell(numbers.get(one), errors.get(one), factor, form, unit) for one in names_of_row)
            body.append(f"<tr><td>{html.escape(label)}</td>{''.join(cells)}</tr>")
    words = "&plusmn;: standard error of the mean over episodes (clips of one episode are not independent)."
    note = f'<p class="note">{words}</p>' if errors else ""
    return (
        '<h2>All numbers</h2><div class="card wide"><table><thead><tr><td></td>'
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{note}</div>"
    )


def _cell(value: object, error: object, factor: float | int, form: str, unit: str) -> str:
    if not isinstance(value, float) or not np.isfinite(value):
        return "<td></td>"
    beside = f" &plusmn; {factor * error:{form}}" if isinstance(error, float) and np.isfinite(error) else ""
    return f"<td>{factor * value:{form}}{beside} {unit}</td>"


def _rate(wins: int, trials: int) -> tuple[float, float, float]:
    return wins / max(trials, 1), *wilson_interval(wins, trials)


def _curve(values: Sequence[float], frame_hz: float, factor: int) -> np.ndarray:
    return np.stack([np.arange(1, len(values) + 1) / frame_hz, factor * np.asarray(values, dtype=float)], axis=1)
