"""One imagined future against what really happened: every number, frame by frame, beside its baselines.

Images and depth count over the static cameras and the future frames only, as in the X-WAM paper (arXiv 2604.26694);
clouds are fused from the views that are calibrated. Names end in what they are compared with:

- no ending: the imagined world (``near_chamfer_m``: the cloud within 40 cm of where the hands really are;
  ``region_chamfer_m``: in the box that was asked for, such as a table's top and what stands on it);
- ``_copy``: the last frame seen, again and again (with its true depth, from where it was taken), and a hand that stays
  where it was: what a model that imagines nothing gets;
- ``_vae``: what really happened, through the model's autoencoder and back: what the autoencoder alone loses. It is no
  bound: a decoder may be taught to show imaginations better than what it gets from the encoder;
- ``_aligned``: each depth image scaled to the true one first (``metrics.aligning_scale``);
- ``_teacher``, ``_teacher_aligned``: a monocular estimator on the **imagined** pictures in place of the depth branch;
  a relative one has no metres of its own, so it only appears aligned, in scale and shift.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from xwam.evaluate import geometry_metrics, metrics
from xwam.model.depth_teacher import Alignment, DepthTeacher, fit_alignment, to_metres
from xwam.records import Prediction
from xwam.robot.layout import Layout
from xwam.view.points import base_points, camera_poses, fuse, known_pixels

Scores = dict[str, np.ndarray]
"""One number per future frame (or a single one), by name."""


def compare_worlds(
    imagined: Prediction,
    real: Prediction,
    layout: Layout,
    *,
    recoded: Prediction | None = None,
    teacher: DepthTeacher | None = None,
    has_lpips: bool = False,
    region: geometry_metrics.Box | None = None,
) -> Scores:
    """Scores of one imagined future, over the frames of ``real``: an episode that ended has fewer than were imagined.

    Raises ValueError when there is no world in the prediction.
    ``recoded``: ``real`` through the model's autoencoder, for the scores that end in ``_vae``. ``region``: where the
    clouds are scored once more, by themselves.
    """
    if imagined.video is None or real.video is None:
        raise ValueError("video=None: this prediction holds actions only; ask for the world (actions_only=False).")
    imagined = imagined.first_frames(len(real.state))
    assert imagined.video is not None
    real_video, real = real.video, within_range(real)
    static = metrics.static_views(imagined.cameras)
    video, truth = imagined.video[static], real_video[static]
    scores = _image_scores(video, truth, "", has_lpips) | _image_scores(
        metrics.copy_last_frame(truth), truth, "_copy", has_lpips
    )
    if recoded is not None and recoded.video is not None:
        scores |= _image_scores(recoded.video[static], truth, "_vae", has_lpips)
    still = np.repeat(real.state[:1], len(real.state), axis=0)
    scores |= _path_scores(imagined.state, real.state, layout, "") | _path_scores(still, real.state, layout, "_copy")
    if imagined.depth is None or real.depth is None:
        return scores
    frozen = replace(
        real,
        state=still,  # where a wrist camera was when it took the frame
        depth=np.broadcast_to(real.depth[:, :1], real.depth.shape).copy(),
        video=metrics.copy_last_frame(real_video),
    )
    truth = _Truth(real, layout, region)
    scores |= truth.depth_scores(imagined, "") | truth.depth_scores(frozen, "_copy")
    if recoded is not None and recoded.depth is not None:
        scores |= truth.depth_scores(recoded, "_vae")
    scores |= _aligned_scores(imagined.depth[static], real.depth[static], _scaled, "_aligned")
    scores |= _consistency(imagined, layout)
    return scores if teacher is None else scores | _teacher_scores(teacher, imagined, truth)


def within_range(real: Prediction) -> Prediction:
    """What no camera's pictures of depth can say, nearer or farther than its range, is unknown: it is not scored."""
    if real.depth is None:
        return real
    views = zip(real.depth, real.cameras, strict=True)
    return replace(real, depth=np.stack([np.where(known_pixels(view, c), view, np.float32(0)) for view, c in views]))


def summarize(rows: Sequence[Scores]) -> dict[str, Any]:
    """Means over clips: one number per score, and one per horizon step where there are steps."""
    names = sorted({name for row in rows for name in row})
    stacked: Mapping[str, np.ndarray] = {n: _stack([row[n] for row in rows if n in row]) for n in names}
    means = {name: float(finite_mean(values.reshape(-1))) for name, values in stacked.items()}
    per_step = {n: [float(x) for x in finite_mean(v)] for n, v in stacked.items() if v.ndim > 1}
    return {**means, "per_step": per_step}


def standard_errors(rows: Sequence[Scores], episodes: Sequence[int]) -> dict[str, float]:
    """Standard error of every score's mean, from the means of episodes; ``episodes`` says whose clip each row is.

    Clips of one episode overlap: they are no independent samples. NaN where fewer than two episodes have a number.
    """
    found = {}
    for name in sorted({name for row in rows for name in row}):
        of_episode: dict[int, list[np.ndarray]] = {}
        for row, episode in zip(rows, episodes, strict=True):
            of_episode.setdefault(episode, []).append(np.atleast_1d(row[name]) if name in row else np.zeros(0))
        means = np.array([finite_mean(np.concatenate(curves)) for curves in of_episode.values()])
        means = means[np.isfinite(means)]
        found[name] = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
    return found


# --- images and depth -------------------------------------------------------------------------------------------


def _image_scores(video: np.ndarray, truth: np.ndarray, ending: str, has_lpips: bool) -> Scores:
    future = slice(1, None)
    scores = {
        f"psnr{ending}_db": metrics.psnr(video, truth)[:, future].mean(axis=0),
        f"moving_psnr{ending}_db": finite_mean(metrics.moving_psnr(video, truth)[:, future]),
        f"ssim{ending}": metrics.ssim(video, truth)[:, future].mean(axis=0),
    }
    if has_lpips:
        flat = [v[:, future].reshape(-1, *v.shape[2:]) for v in (video, truth)]
        scores[f"lpips{ending}"] = metrics.lpips(*flat).reshape(len(video), -1).mean(axis=0)
    return scores


def _path_scores(state: np.ndarray, truth: np.ndarray, layout: Layout, ending: str) -> Scores:
    """How far the hands are from where they really were, each by itself and their mean; and how far they are turned."""
    paths, scores = geometry_metrics.hand_path_scores(state, truth, layout), {}
    if paths:
        scores["path_m"] = np.mean([path.steps_m[1:] for path in paths.values()], axis=0)
    turns = {name: path.rotation_rad for name, path in paths.items() if path.rotation_rad is not None}
    if turns:
        scores["path_rotation_rad"] = np.array(np.mean(list(turns.values())))
    scores |= {f"path_{name}_m": path.steps_m[1:] for name, path in paths.items()}
    scores |= {f"path_{name}_rotation_rad": np.array(angle) for name, angle in turns.items()}
    return {ended(name, ending): value for name, value in scores.items()}


class _Truth:
    """What really happened, with its clouds made once for all that is compared with them."""

    def __init__(self, real: Prediction, layout: Layout, region: geometry_metrics.Box | None) -> None:
        assert real.depth is not None
        self.depth, self.layout, self.region = real.depth, layout, region
        self.is_measured = np.any(real.depth, axis=(1, 2, 3))  # views whose depth is known at all
        self.static = [v for v in metrics.static_views(real.cameras) if self.is_measured[v]]
        self.has_clouds = any(
            c.is_calibrated and known for c, known in zip(real.cameras, self.is_measured, strict=True)
        )
        self.steps = range(1, real.depth.shape[1])
        self.clouds = [fuse(real, layout, k).points for k in self.steps] if self.has_clouds else []
        self.hands = geometry_metrics.hand_positions(real.state, layout)

    def depth_scores(self, world: Prediction, ending: str) -> Scores:
        """Depth errors over the static views, and distances of the clouds that the calibrated ones give."""
        assert world.depth is not None
        # Of a view that was never measured nobody can say how true it is, and nobody may have taught it.
        known = np.where(self.is_measured[:, None, None, None], world.depth, np.float32(0))
        depth, truth = known[self.static], self.depth[self.static]
        scores = _by_name([metrics.depth_scores(depth[:, k], truth[:, k]) for k in self.steps], ending)
        return scores | self._cloud_scores(replace(world, depth=known), ending) if self.has_clouds else scores

    def _cloud_scores(self, world: Prediction, ending: str) -> Scores:
        """Of whole clouds, around where the hands really are then, and in the region."""
        apart = [
            geometry_metrics.cloud_distances(fuse(world, self.layout, k).points, truth)
            for k, truth in zip(self.steps, self.clouds, strict=True)
        ]
        scores = _by_name([distances.scores() for distances in apart], ending)
        if self.hands.shape[1]:
            near = [partial(geometry_metrics.near_hands, hands=self.hands[k]) for k in self.steps]
            found = [distances.scores(is_near).chamfer_m for distances, is_near in zip(apart, near, strict=True)]
            scores[f"near_chamfer{ending}_m"] = np.array(found)
        if self.region is not None:
            found = [distances.scores(self.region.holds).chamfer_m for distances in apart]
            scores[f"region_chamfer{ending}_m"] = np.array(found)
        return scores


def _aligned_scores(
    depth: Float[np.ndarray, "V T H W"],
    truth: Float[np.ndarray, "V T H W"],
    align: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ending: str,
) -> Scores:
    """Depth errors after every image was aligned to its true one; mean over the views."""
    rows = [
        [metrics.depth_scores(align(depth[v, k], truth[v, k]), truth[v, k]) for v in range(len(depth))]
        for k in range(1, depth.shape[1])
    ]
    names = ("abs_rel", "rmse_m", "delta1", "delta2", "delta3")
    return {
        ended(name, ending): np.array([finite_mean(np.array([row._asdict()[name] for row in step])) for step in rows])
        for name in names
    }


def _scaled(depth_m: np.ndarray, truth_m: np.ndarray) -> np.ndarray:
    scale = metrics.aligning_scale(depth_m, truth_m)
    return depth_m if np.isnan(scale) else scale * depth_m


def _consistency(world: Prediction, layout: Layout) -> Scores:
    """Do the calibrated views agree with each other? One number per future frame; nothing real is needed for it."""
    world = world.only_views([v for v, camera in enumerate(world.cameras) if camera.is_calibrated])
    if len(world.cameras) < 2:
        return {}
    assert world.depth is not None
    points = base_points(world, layout)
    poses = np.stack([camera_poses(camera, world.state, layout) for camera in world.cameras])
    rows = [
        geometry_metrics.view_consistency(points[:, k], world.depth[:, k], world.cameras, poses[:, k])
        for k in range(1, world.depth.shape[1])
    ]
    return {
        "consistency_m": np.array([row.error_m for row in rows]),
        "seen_through": np.array([row.seen_through for row in rows]),
    }


# --- the monocular estimator -------------------------------------------------------------------------------------


def _teacher_scores(teacher: DepthTeacher, imagined: Prediction, truth: _Truth) -> Scores:
    """The estimator's depth of the imagined pictures, raw (where it speaks in metres) and aligned image by image."""
    assert imagined.video is not None
    shape = truth.depth.shape
    estimate = teacher.estimate(imagined.video.reshape(-1, *imagined.video.shape[2:])).reshape(shape)
    raw, aligned = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for view, step in np.ndindex(*shape[:2]):
        far_m, image = imagined.cameras[view].far_m, estimate[view, step]
        raw[view, step] = to_metres(image, teacher.kind, Alignment(), far_m=far_m)
        if (truth.depth[view, step] > 0).sum() > 1 and np.ptp(image) > 0:
            fitted = fit_alignment(image, truth.depth[view, step], teacher.kind)
            aligned[view, step] = to_metres(image, teacher.kind, fitted, far_m=far_m)
    scores = truth.depth_scores(replace(imagined, depth=aligned), "_teacher_aligned")
    return scores | truth.depth_scores(replace(imagined, depth=raw), "_teacher") if teacher.kind == "metric" else scores


# --- small things ------------------------------------------------------------------------------------------------


def _by_name(rows: Sequence[Any], ending: str) -> Scores:
    """Equal NamedTuples, one per step, to one curve per field."""
    return {ended(name, ending): np.array([row._asdict()[name] for row in rows]) for name in rows[0]._fields}


def ended(name: str, ending: str) -> str:
    """The name of a score with an ending; the unit stays last: ``rmse_m`` and ``_copy`` give ``rmse_copy_m``."""
    for unit in ("_m", "_db", "_rad"):
        if name.endswith(unit):
            return name.removesuffix(unit) + ending + unit
    return name + ending


def _stack(curves: list[np.ndarray]) -> np.ndarray:
    """Rows of different lengths, filled with NaN: episodes that ended early have fewer frames."""
    if curves[0].ndim == 0:
        return np.stack(curves)
    longest = max(len(curve) for curve in curves)
    return np.stack([np.pad(c.astype(float), (0, longest - len(c)), constant_values=np.nan) for c in curves])


def finite_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis, leaving NaN out; NaN where nothing is left."""
    counted = np.isfinite(values)
    total = np.where(counted, values, 0).sum(axis=0)
    return np.where(counted.any(axis=0), total / np.maximum(counted.sum(axis=0), 1), np.nan)
