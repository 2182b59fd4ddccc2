"""Open loop: on clips of held-out episodes, is what the model imagines what really happened?

Images and depth are compared over the static cameras and the future frames only, as the paper does; every number also
per horizon step, and beside the baseline that copies the last frame seen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from xwam.data.augment import centre_crop
from xwam.data.clips import Clips
from xwam.data.lerobot import open_lerobot
from xwam.evaluate import geometry_metrics, metrics
from xwam.policy import Policy
from xwam.records import Clip, Observation, Prediction
from xwam.robot.layout import Layout
from xwam.view.points import fuse

Scores = dict[str, np.ndarray]
"""One number per future frame (or a single one), by name."""


def evaluate_open_loop(policy: Policy, data: Path, *, num_clips: int, seed: int, out: Path) -> dict[str, Any]:
    """Compare ``num_clips`` clips of the held-out episodes and write means (and per-step means) to ``out`` (JSON)."""
    clips = Clips(open_lerobot(data), policy.config.clip, policy.config.view_names, split="validation", padded=False)
    if len(clips) == 0:
        raise ValueError(f"data={data}: no held-out episode is long enough for one clip; record longer or more ones.")
    chosen = np.random.default_rng(seed).permutation(len(clips))[:num_clips]
    rows = [score_clip(policy, clips[i], seed=int(i)) for i in tqdm(chosen.tolist(), desc="open loop", unit="clip")]
    report = summarize(rows) | {"settings": {"num_clips": len(rows), "seed": seed, "data": clips.episodes.fingerprint}}
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".tmp-{out.name}")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.rename(out)
    return report


def score_clip(policy: Policy, clip: Clip, *, seed: int) -> Scores:
    """Imagine a clip from its first frame and compare."""
    imagined = list(policy.predict(observation_of(clip), seed=seed))[-1]
    real = reality(clip, imagined, policy.config.clip.crop)
    error = metrics.action_scores(imagined.action, real.action, policy.layout)
    scores = {f"action_{name}": np.array(value) for name, value in error._asdict().items() if value is not None}
    return scores | compare_worlds(imagined, real, policy.layout)


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
        like, action=clip.action, state=clip.state, video=seen.video, depth=seen.depth, cameras=seen.cameras, seconds={}
    )


def compare_worlds(imagined: Prediction, real: Prediction, layout: Layout) -> Scores:
    """Scores of one imagined future, frame by frame. Raises ValueError when there is no world in the prediction."""
    if imagined.video is None or real.video is None:
        raise ValueError("video=None: this prediction holds actions only; ask for the world (actions_only=False).")
    static = metrics.static_views(imagined.cameras)
    video, truth = imagined.video[static], real.video[static]
    frozen = metrics.copy_last_frame(truth)
    scores: Scores = {
        "psnr_db": metrics.psnr(video, truth)[:, 1:].mean(axis=0),
        "psnr_copy_db": metrics.psnr(frozen, truth)[:, 1:].mean(axis=0),
        "moving_psnr_db": _mean(metrics.moving_psnr(video, truth)[:, 1:]),
        "moving_psnr_copy_db": _mean(metrics.moving_psnr(frozen, truth)[:, 1:]),
        "ssim": metrics.ssim(video, truth)[:, 1:].mean(axis=0),
    }
    paths = geometry_metrics.hand_path_scores(imagined.state, real.state, layout)
    scores |= {f"path_{name}_mean_m": np.array(path.mean_m) for name, path in paths.items()}
    if imagined.depth is not None and real.depth is not None:
        scores |= _depth_scores(imagined, real, layout, static)
    return scores


def _depth_scores(imagined: Prediction, real: Prediction, layout: Layout, static: list[int]) -> Scores:
    assert imagined.depth is not None
    assert real.depth is not None
    steps = range(1, imagined.depth.shape[1])
    rows = [metrics.depth_scores(imagined.depth[static, k], real.depth[static, k]) for k in steps]
    scores = {name: np.array([row._asdict()[name] for row in rows]) for name in ("abs_rel", "rmse_m", "delta1")}
    if all(camera.is_calibrated for camera in imagined.cameras):
        clouds = [(fuse(imagined, layout, k).points, fuse(real, layout, k).points) for k in steps]
        scored = [geometry_metrics.cloud_scores(ours, theirs) for ours, theirs in clouds]
        scores["chamfer_m"] = np.array([row.chamfer_m for row in scored])
        scores["f_10mm"] = np.array([row.f_10mm for row in scored])
    return scores


def summarize(rows: Sequence[Scores]) -> dict[str, Any]:
    """Means over clips: one number per score, and one per horizon step where there are steps."""
    names = sorted({name for row in rows for name in row})
    stacked: Mapping[str, np.ndarray] = {n: _stack([row[n] for row in rows if n in row]) for n in names}
    means = {name: float(np.nanmean(values)) for name, values in stacked.items()}
    per_step = {n: [float(x) for x in _mean(v)] for n, v in stacked.items() if v.ndim > 1}
    return {**means, "per_step": per_step}


def _stack(curves: list[np.ndarray]) -> np.ndarray:
    """Rows of different lengths, filled with NaN: episodes that ended early have fewer frames."""
    if curves[0].ndim == 0:
        return np.stack(curves)
    longest = max(len(curve) for curve in curves)
    return np.stack([np.pad(c.astype(float), (0, longest - len(c)), constant_values=np.nan) for c in curves])


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis, leaving NaN out; NaN where nothing is left."""
    counted = np.isfinite(values)
    total = np.where(counted, values, 0).sum(axis=0)
    return np.where(counted.any(axis=0), total / np.maximum(counted.sum(axis=0), 1), np.nan)
