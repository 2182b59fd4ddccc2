"""Open loop: on clips of held-out episodes, is what the model imagines what really happened?

Clips are of as many episodes as there are, and begin anywhere up to an episode's end; frames beyond it do not count.
Every number of evaluate/compare.py, as means over clips and per horizon step (how fast does imagination decay?), beside
the baselines and what the autoencoder alone loses; and a report that shows the best, the median and the worst clip.
"""

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from xwam.config import Imagining
from xwam.data.clips import Clips
from xwam.evaluate import metrics
from xwam.evaluate.clips import (
    action_scores,
    check_same_robot,
    held_out,
    imagine_clip,
    one_of_each,
    through_autoencoder,
)
from xwam.evaluate.compare import Scores, compare_worlds, standard_errors, summarize
from xwam.evaluate.geometry_metrics import Box
from xwam.evaluate.report import write_report
from xwam.evaluate.report_charts import Totals
from xwam.evaluate.report_episode import Decision, EpisodeReport, best_median_worst, latencies, page_of
from xwam.evaluate.results_file import OtherSettingsError, are_same, check_file, identity
from xwam.files import write_json
from xwam.model.depth_teacher import DepthTeacher
from xwam.policy import Policy
from xwam.robot.robot_json import RobotConfig

RANKED_BY = "psnr_db"  # what makes a clip the best one


class Judged(NamedTuple):
    """One clip: where it lies, its scores, and the seconds until its actions and its world were there."""

    index: int
    episode: int
    scores: Scores
    seconds: tuple[float, float]


def evaluate_open_loop(
    policy: Policy,
    data: Path,
    *,
    num_clips: int,
    seed: int,
    out: Path,
    mode: Imagining = "joint",
    region: Box | None = None,
    teacher: DepthTeacher | None = None,
    has_report: bool = True,
    robot: RobotConfig | None = None,
) -> dict[str, Any]:
    """Compare ``num_clips`` clips of the held-out episodes; write ``out`` (JSON) and, beside it, the report (HTML).

    Every clip is written as it is finished; called again, it goes on. Raises ValueError for fewer than one clip, for an
    ``out`` that is no .json, and OtherSettingsError where it holds other results.
    ``mode``: does the model guess the actions too, or is it told them? ``region``: where clouds are scored once more.
    ``teacher``: a monocular depth estimator to compare the depth branch with. ``robot``: explains foreign data.
    """
    check_file(out)
    if num_clips < 1:
        raise ValueError(f"clips={num_clips}: compare at least 1.")
    clips = held_out(data, policy.config, robot=robot, absent=policy.absent)
    check_same_robot(policy, clips.episodes)
    chosen = one_of_each(clips, num_clips, seed=seed)
    why_not = metrics.lpips_missing()
    settings = {
        "mode": mode,
        **({"actions_beside": "standing still"} if mode == "joint" else {}),
        "clips": "one of every episode before a second of any, up to its end",
        "seed": seed,
        "data": clips.episodes.fingerprint,
        "action_steps": policy.config.denoise.num_action_steps,
        "video_steps": policy.config.denoise.num_video_steps,
        "region": "none asked for" if region is None else [*region.low, *region.high],
        "estimator": "none given (--depth-teacher FOLDER)" if teacher is None else teacher.name,
        "lpips_network": "AlexNet" if why_not is None else why_not,
        **identity(policy),
    }
    done = _finished(out, settings)
    for index in tqdm([n for n in chosen if n not in done], desc="open loop", unit="clip"):
        clip = clips[index]
        imagined, real = imagine_clip(policy, clip, seed=index, mode=mode)
        asked = {"recoded": through_autoencoder(policy, real), "teacher": teacher, "has_lpips": why_not is None}
        scores = compare_worlds(imagined, real, policy.layout, **asked, region=region)
        if mode == "joint":
            scores |= action_scores(policy, clip, imagined)
        else:  # the path is what was given
            scores = {name: curve for name, curve in scores.items() if not name.startswith("path_")}
        done[index] = Judged(index, clips.locate(index)[0], scores, latencies(imagined))
        _write(out, settings, done, chosen)
    report = _write(out, settings, done, chosen)
    _say_what_was_not_scored(report, region, teacher)
    if has_report:
        _write_report(out.with_suffix(".html"), policy, clips, [done[index] for index in chosen], report)
    return report


def _say_what_was_not_scored(report: Mapping[str, Any], region: Box | None, teacher: DepthTeacher | None) -> None:
    for asked, name in ((region, "region_chamfer_m"), (teacher, "abs_rel_teacher_aligned")):
        if asked is not None and name not in report:
            which = "region" if asked is region else "depth_teacher"
            why = "no depth was recorded or imagined, or (for clouds) no camera that measures it is calibrated"
            warnings.warn(f"{which}: nothing was scored: {why}.", stacklevel=3)


def _finished(out: Path, settings: dict[str, Any]) -> dict[int, Judged]:
    """The clips that ``out`` holds already."""
    if not out.is_file():
        return {}
    stored = json.loads(out.read_text())
    found = stored.get("settings", {})
    if "clips" not in stored or not are_same(found, settings, but=("num_clips", "num_episodes")):
        raise OtherSettingsError(f"out={out} holds results of other settings {found}: choose another file (--out).")
    return {
        row["index"]: Judged(
            index=row["index"],
            episode=row["episode"],
            scores={n: np.array(x, float) for n, x in row["scores"].items()},
            seconds=tuple(row["seconds"]),
        )
        for row in stored["clips"]
    }


def _write(out: Path, settings: dict[str, Any], done: Mapping[int, Judged], chosen: Sequence[int]) -> dict[str, Any]:
    """Only clips that were asked for count; others that the file held stay in it."""
    judged = [done[index] for index in chosen if index in done]
    rows = [
        row._asdict() | {"scores": {n: x.tolist() for n, x in row.scores.items()}, "seconds": list(row.seconds)}
        for row in done.values()
    ]
    scores, episodes = [row.scores for row in judged], [row.episode for row in judged]
    report = {
        **summarize(scores),
        "standard_error": standard_errors(scores, episodes),
        "settings": {**settings, "num_clips": len(judged), "num_episodes": len(set(episodes))},
    }
    write_json(out, {**report, "clips": rows})
    return report


def _write_report(out: Path, policy: Policy, clips: Clips, judged: Sequence[Judged], report: dict[str, Any]) -> None:
    """One file: all numbers and curves, and three clips in 4D, imagined once more (the same to the bit)."""
    episodes, mode = [], report["settings"]["mode"]
    is_told = mode == "forward_dynamics"
    with tempfile.TemporaryDirectory() as folder:
        for label, place in best_median_worst([float(row.scores[RANKED_BY].mean()) for row in judged]):
            index = judged[place].index
            number, step = clips.locate(index)
            imagined, real = imagine_clip(policy, clips[index], seed=index, mode=mode)
            page = Path(folder) / f"world-{place}.html"
            page = page_of(page, imagined, policy.layout, real=real, title=imagined.instruction)
            episodes.append(
                EpisodeReport(
                    task=f"episode {number}, step {step}",
                    instruction=imagined.instruction,
                    seed=index,
                    success=None,
                    num_steps=min(len(imagined.action), clips.episodes.length(number) - step),
                    layout=policy.layout,
                    decisions=[Decision(imagined=imagined, real=real, page=page, is_told=is_told)],
                    label=label,
                )
            )
        totals = Totals(
            action_seconds=[] if is_told else [row.seconds[0] for row in judged],
            world_seconds=[row.seconds[1] for row in judged],
            per_step=report["per_step"],
            frame_hz=policy.config.clip.frame_hz,
        )
        numbers = {name: value for name, value in report.items() if name not in ("per_step", "settings")}
        told = ", told the recorded actions" if is_told else ""
        title = {"title": f"{len(judged)} held-out clips: imagined{told}, and real"}
        order = {"order": "clips ranked by PSNR over the static cameras"}
        write_report(out, episodes, title | numbers | report["settings"] | order, totals=totals, is_alone=True)
