"""Numbers for geometry: point clouds, agreement between views, paths of the hand. Metres, base frame.

Clouds come in as ``N 3`` arrays (``xwam.view.points`` makes them). Of a large cloud, points drawn with a fixed seed
look for their nearest neighbours among *all* points of the other: the same clouds always give the same number, and
thinning adds nothing to it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from xwam.evaluate.metrics import check_same_shape
from xwam.records import Camera
from xwam.robot.layout import Layout
from xwam.robot.rotations import matrix_from_quat, vector_from_matrix
from xwam.view.points import project

MAX_QUERIES = 20_000  # points of each cloud that look for their nearest neighbour
F_THRESHOLDS_M = (0.005, 0.010, 0.020)
NEAR_M = 0.4  # from a hand: the part of the scene that the task is about
EDGE_RATIO = 1.1  # neighbouring depths further apart than this lie on two surfaces


class CloudScores(NamedTuple):
    """How far two point clouds are apart."""

    chamfer_m: float
    f_5mm: float
    f_10mm: float
    f_20mm: float


class Box(NamedTuple):
    """A region of space, base frame, metres: from the lowest corner to the highest."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def holds(self, points: Float[np.ndarray, "N 3"]) -> Bool[np.ndarray, " N"]:
        """Which points lie in it."""
        return np.all((points >= self.low) & (points <= self.high), axis=1)


class CloudDistances(NamedTuple):
    """Points of two clouds, each with its distance to the nearest of all points of the other cloud, in metres."""

    points: Float[np.ndarray, "n 3"]
    to_reference: Float[np.ndarray, " n"]
    reference: Float[np.ndarray, "m 3"]
    to_points: Float[np.ndarray, " m"]

    def scores(self, counts: Callable[[np.ndarray], np.ndarray] | None = None) -> CloudScores:
        """Scores over all points, or over those of both clouds for which ``counts`` says True.

        All NaN when no reference point counts. When no point of the cloud counts, F is 0, and Chamfer the mean distance
        from the reference points to the nearest point of the whole cloud (NaN if it is empty).
        Chamfer = ``(mean of to_reference + mean of to_points) / 2`` in metres, not squared. F at a threshold =
        harmonic mean of precision (share of points nearer than it to the reference) and recall (the other way
        round): Knapitsch, Park, Zhou, Koltun, ACM TOG 36(4), 2017, section 3.
        """
        here, there = self.to_reference, self.to_points
        if counts is not None:
            here, there = here[counts(self.points)], there[counts(self.reference)]
        if not len(there):
            return CloudScores(*[float("nan")] * 4)
        if not len(here):  # nothing was found of what is there
            return CloudScores(float(there.mean()) if np.isfinite(there).all() else float("nan"), 0.0, 0.0, 0.0)
        scores = []
        for threshold in F_THRESHOLDS_M:
            precision, recall = np.mean(here < threshold), np.mean(there < threshold)
            scores.append(float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0)
        return CloudScores(float((here.mean() + there.mean()) / 2), *scores)


class ViewConsistency(NamedTuple):
    """How well depth maps of several cameras agree on one surface."""

    error_m: float  # median distance along the second camera's ray, at most the margin; NaN: no common surface
    seen_through: float  # share of points that another view looks through: one of the two must be wrong
    num_points: int


class PathScores(NamedTuple):
    """Distance between a predicted and an executed path of a hand; means leave out the first state, which is given."""

    mean_m: float
    rotation_rad: float | None  # mean angle; None when the layout has no quaternion
    steps_m: Float[np.ndarray, " Ts"]  # distance at every state


def box(corners: Sequence[float]) -> Box:
    """From six numbers: the lowest x, y, z, then the highest. Raises ValueError where they are the wrong way round."""
    low, high = (tuple(map(float, part)) for part in (corners[:3], corners[3:]))
    if len(low) != 3 or len(high) != 3 or any(a >= b for a, b in zip(low, high, strict=True)):
        raise ValueError(f"region={tuple(corners)}: give the lowest x y z, then the highest x y z, in metres.")
    return Box(low, high)


def cloud_distances(
    points: Float[np.ndarray, "N 3"], reference: Float[np.ndarray, "M 3"], *, seed: int = 0
) -> CloudDistances:
    """How far the points of two clouds are from the other one; infinite where that one is empty."""
    here, there = _sampled(points, seed), _sampled(reference, seed)
    return CloudDistances(here, _nearest(here, reference), there, _nearest(there, points))


def near_hands(
    points: Float[np.ndarray, "N 3"], hands: Float[np.ndarray, "hands 3"], *, radius_m: float = NEAR_M
) -> Bool[np.ndarray, " N"]:
    """Which points lie within ``radius_m`` of any hand."""
    distance = np.linalg.norm(points[:, None] - hands, axis=-1)
    return (distance < radius_m).any(axis=1)


def hand_positions(state: Float[np.ndarray, "Ts Ds"], layout: Layout) -> Float[np.ndarray, "Ts hands 3"]:
    """Where every arm's hand is, in the order of the layout; no hands for a robot that tells joint angles alone."""
    found = [state[:, where].astype(np.float64) for _, where in layout.hands]
    return np.stack(found, axis=1) if found else np.zeros((len(state), 0, 3))


def view_consistency(
    points: Float[np.ndarray, "V H W 3"],
    depth_m: Float[np.ndarray, "V H W"],
    cameras: Sequence[Camera],
    base_from_camera: Float[np.ndarray, "V 4 4"],
    *,
    margin_m: float = 0.05,
) -> ViewConsistency:
    """Look at each view's points (base frame; NaN where unknown) with every other camera and compare depths.

    For a point of view a that falls between known pixels of view b (but not on an edge), ``gap = its depth in b -
    depth map of b there``. Beyond ``margin_m`` it is hidden behind what b sees, which is no error; below
    ``-margin_m`` b looks through it, which is counted in ``seen_through``; the rest is the same surface and gives
    ``error_m = median |gap|``. That is meaningful only where ``seen_through`` is small: gaps beyond the margin are cut
    off, so views that disagree more may have a smaller ``error_m``.
    """
    gaps = [
        _gaps(points[a].reshape(-1, 3), depth_m[b], cameras[b], base_from_camera[b])
        for a in range(len(cameras))
        for b in range(len(cameras))
        if a != b and cameras[b].intrinsics is not None
    ]
    gap = np.concatenate(gaps) if gaps else np.zeros(0)
    not_hidden = gap[gap <= margin_m]
    same = not_hidden[not_hidden >= -margin_m]
    return ViewConsistency(
        error_m=float(np.median(np.abs(same))) if len(same) else float("nan"),
        seen_through=float(1 - len(same) / len(not_hidden)) if len(not_hidden) else float("nan"),
        num_points=len(same),
    )


def hand_path_scores(
    state: Float[np.ndarray, "Ts Ds"], reference: Float[np.ndarray, "Ts Ds"], layout: Layout
) -> dict[str, PathScores]:
    """Predicted against executed hand poses, per arm in use (named as the layout names its position part).

    Position: Euclidean distance per step. Rotation: angle of ``R_predicted R_executed^T``.
    """
    check_same_shape(state, reference)
    layout.check_state(state)
    layout.check_state(reference)
    scores, predicted = {}, slice(1 if len(state) > 1 else 0, None)
    turns = {part.name: where for part, where in layout.quaternions}
    for arm, where in layout.hands:
        distance = np.linalg.norm(state[:, where].astype(np.float64) - reference[:, where], axis=-1)
        angle, turn = None, turns.get(f"{arm}_rotation")
        if turn is not None:
            ours, theirs = matrix_from_quat(state[:, turn]), matrix_from_quat(reference[:, turn])
            turned = np.linalg.norm(vector_from_matrix(ours @ np.swapaxes(theirs, -1, -2)), axis=-1)
            angle = float(turned[predicted].mean())
        scores[f"{arm}_position"] = PathScores(float(distance[predicted].mean()), angle, distance)
    return scores


def _gaps(points: np.ndarray, depth_m: np.ndarray, camera: Camera, base_from_camera: np.ndarray) -> np.ndarray:
    """Depth of points in a camera minus what its depth map says there; only where the map knows."""
    assert camera.intrinsics is not None
    points = points[np.isfinite(points).all(axis=-1)].astype(np.float64)
    camera_from_base = np.linalg.inv(base_from_camera)
    seen = points @ camera_from_base[:3, :3].T + camera_from_base[:3, 3]
    seen = seen[seen[:, 2] > camera.near_m]
    there = _depth_between_pixels(depth_m, project(seen, camera.intrinsics) + 0.5 - camera.depth_at)
    return (seen[:, 2] - there)[there > 0]


def _depth_between_pixels(depth_m: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Depth at image positions (column, row): bilinear in inverse depth, which is exact on planes.

    0 outside the image, beside unknown pixels, and where the four neighbours straddle an edge.
    """
    height, width = depth_m.shape
    corner = np.floor(place - 0.5)
    column, row = corner.astype(int).T
    inside = (column >= 0) & (column < width - 1) & (row >= 0) & (row < height - 1)
    column, row = np.where(inside, column, 0), np.where(inside, row, 0)
    around = np.stack([depth_m[row + i, column + j] for i in (0, 1) for j in (0, 1)]).astype(np.float64)
    usable = inside & (around.min(axis=0) > 0) & (around.max(axis=0) < EDGE_RATIO * around.min(axis=0))
    across, down = (place - 0.5 - corner).T
    weights = np.stack([(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across])
    inverse = (weights / np.where(usable, around, 1.0)).sum(axis=0)
    return np.where(usable, 1 / inverse, 0.0)


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return KDTree(others).query(points)[0] if len(others) and len(points) else np.full(len(points), np.inf)


def _sampled(points: np.ndarray, seed: int) -> np.ndarray:
    if len(points) <= MAX_QUERIES:
        return points
    return points[np.random.default_rng(seed).choice(len(points), MAX_QUERIES, replace=False)]
