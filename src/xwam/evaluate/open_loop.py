"""Open loop: on clips of held-out episodes, is what the model imagines what really happened?

Every number of evaluate/compare.py, as means over clips and per horizon step (how fast does imagination decay?), beside
the baselines and what the autoencoder alone loses; and a report that shows the best, the median and the worst clip.
"""

import json
import tempfile
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from xwam import encode
from xwam.config import Config, Imagining
from xwam.data.augment import centre_crop
from xwam.data.clips import Clips
from xwam.data.episodes import Episodes
from xwam.data.opening import open_data
from xwam.dynamics import imagine_actions
from xwam.evaluate import metrics
from xwam.evaluate.closed_loop import OtherSettingsError, check_file, identity
from xwam.evaluate.compare import Scores, compare_worlds, only_views, summarize
from xwam.evaluate.geometry_metrics import Box
from xwam.evaluate.report import Decision, EpisodeReport, Totals, write_report
from xwam.evaluate.report_episode import latencies
from xwam.files import write_json
from xwam.model.depth_teacher import DepthTeacher
from xwam.policy import Policy
from xwam.records import Clip, Observation, Prediction
from xwam.robot.layout import Layout, differences
from xwam.robot.mapping import RobotConfig
from xwam.view.html import write_page
from xwam.view.points import has_points

RANKED_BY = "psnr_db"  # what makes a clip the best one


class Judged(NamedTuple):
    """One clip: where it lies, its scores, and the seconds until its actions and its world were there."""

    index: int
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
    check_robot(policy, clips.episodes)
    chosen = np.random.default_rng(seed).permutation(len(clips))[:num_clips].tolist()
    why_not = metrics.lpips_missing()
    settings = {
        "mode": mode,
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
            scores |= _action_scores(policy, clip, imagined)
        else:  # the path is what was given
            scores = {name: curve for name, curve in scores.items() if not name.startswith("path_")}
        done[index] = Judged(index, scores, latencies(imagined))
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
    found = {name: value for name, value in stored.get("settings", {}).items() if name != "num_clips"}
    if "clips" not in stored or found != json.loads(json.dumps(settings)):
        raise OtherSettingsError(f"out={out} holds results of other settings {found}: choose another file (--out).")
    return {
        row["index"]: Judged(
            row["index"], {n: np.array(x, float) for n, x in row["scores"].items()}, tuple(row["seconds"])
        )
        for row in stored["clips"]
    }


def _write(out: Path, settings: dict[str, Any], done: Mapping[int, Judged], chosen: Sequence[int]) -> dict[str, Any]:
    """Only clips that were asked for count; others that the file held stay in it."""
    judged = [done[index] for index in chosen if index in done]
    rows = [
        {"index": row.index, "scores": {n: x.tolist() for n, x in row.scores.items()}, "seconds": list(row.seconds)}
        for row in done.values()
    ]
    report = {**summarize([row.scores for row in judged]), "settings": {**settings, "num_clips": len(judged)}}
    write_json(out, {**report, "clips": rows})
    return report


def held_out(data: Path, config: Config, *, robot: RobotConfig | None = None, absent: Collection[str] = ()) -> Clips:
    """Whole clips of a data set's held-out demonstrations. Raises ValueError when there are none."""
    clips = Clips(
        open_data(data, robot=robot), config.clip, config.view_names,
        split="validation", padded=False, demonstrations_only=True, absent=absent,
    )  # fmt: skip
    if len(clips) == 0:
        raise ValueError(
            f"data={data}: no held-out demonstration is long enough for one clip; record longer or more ones."
        )
    return clips


def check_robot(policy: Policy, episodes: Episodes) -> None:
    """Raises ValueError for the data of another robot: numbers in the same slots would mean something else."""
    wrong = differences(episodes.layout, policy.layout)
    if wrong or episodes.layout.name != policy.layout.name:
        what = f" ({wrong[0]})" if wrong else ""
        raise ValueError(
            f"data of robot {episodes.layout.name!r}: the policy acts as {policy.layout.name!r}{what}. Where it "
            "learned from both, name the other one (--robot, a folder of its robots/); otherwise take its own data."
        )


def score_clip(policy: Policy, clip: Clip, *, seed: int) -> Scores:
    """Imagine a clip from its first frame and compare."""
    imagined, real = imagine_clip(policy, clip, seed=seed)
    return _action_scores(policy, clip, imagined) | compare_worlds(imagined, real, policy.layout)


def imagine_clip(policy: Policy, clip: Clip, *, seed: int, mode: Imagining = "joint") -> tuple[Prediction, Prediction]:
    """What the model imagines from a clip's first frame, and what really happened; only of views that were seen.

    ``mode="forward_dynamics"``: it is told the actions that were really played, and the states they led through.
    """
    if mode == "joint":
        *_, imagined = policy.predict(observation_of(clip), seed=seed)
    else:
        imagined = imagine_actions(policy, observation_of(clip), clip.executed, clip.state, seed=seed)
    real = reality(clip, imagined, policy.config.clip.crop)
    seen = np.flatnonzero(clip.video_mask[:, 0]).tolist()
    return only_views(imagined, seen), only_views(real, seen)


def observation_of(clip: Clip) -> Observation:
    """What the robot saw when the clip began."""
    names = [camera.name for camera in clip.cameras]
    images = {name: clip.video[view, 0] for view, name in enumerate(names)}
    return Observation(
        images=images,
        state=clip.state[0],
        instruction=clip.instruction,
        cameras={camera.name: camera for camera in clip.cameras},
    )


def reality(clip: Clip, like: Prediction, crop: float) -> Prediction:
    """What really happened, as the same kind of record: cropped as the model sees it."""
    seen = centre_crop(clip, crop=crop)
    return replace(
        like,
        action=clip.executed,
        state=clip.state,
        video=seen.video,
        depth=seen.depth,
        cameras=seen.cameras,
        seconds={},
    )


@torch.no_grad()
def through_autoencoder(policy: Policy, world: Prediction) -> Prediction:
    """A world encoded and decoded by the policy's autoencoder: what it loses, no imagination can have."""
    vae = policy.networks.vae

    def recoded(pictures: Tensor) -> Tensor:
        return torch.cat([vae.decode(vae.encode(view.to(policy.device))) for view in pictures.split(1)])

    video, depth = world.video, world.depth
    if video is not None:
        video = encode.tensor_to_video(recoded(encode.video_to_tensor(video)))
    if depth is not None:
        images = recoded(encode.depth_to_tensor(depth, world.cameras))
        depth = encode.tensor_to_depth(images, world.cameras, policy.config.denoise.far_share)
    return replace(world, video=video, depth=depth)


def _action_scores(policy: Policy, clip: Clip, imagined: Prediction) -> Scores:
    """Errors of the actions; only those that are demonstrated count."""
    taught = clip.action_mask
    if not taught.any():
        return {}
    error = metrics.action_scores(imagined.action[taught], clip.action[taught], policy.layout)
    return {f"action_{name}": np.array(value) for name, value in error._asdict().items() if value is not None}


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
                    num_steps=len(imagined.action),
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
