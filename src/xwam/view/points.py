"""Depth images to coloured points in the robot's base frame: the 3D of the 4D. numpy only.

In: a Prediction (imagined, or the same record filled with what really happened) and the robot's Layout.
Out: one PointCloud per time step. A pixel (u, v) with depth z (metres along the camera's axis, not along the ray)
lies at ``z K^-1 (u + a, v + a, 1)`` in the camera, ``a`` being ``Camera.depth_at`` (1/2: its centre);
``base_from_camera`` brings it to the base frame. Static cameras carry that pose; a wrist camera's is
``base_from_hand(state) @ hand_from_camera``, so the imagined wrist view is placed by the imagined state
(arXiv 2604.26694, 4D reconstruction).
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from xwam.records import Camera, Prediction
from xwam.robot.actions import base_from_hand
from xwam.robot.layout import Layout

MIN_ANGLE_DEG = 15.0  # surfaces seen flatter than this are not measured, they are smeared


class PointCloud(NamedTuple):
    """Points in the base frame (metres), their colours, and the view each came from."""

    points: Float[np.ndarray, "N 3"]
    colours: UInt8[np.ndarray, "N 3"]
    view: Int[np.ndarray, " N"]


def camera_poses(
    camera: Camera, state: Float[np.ndarray, "*steps Ds"], layout: Layout
) -> Float[np.ndarray, "*steps 4 4"]:
    """``base_from_camera`` at every state; constant for a static camera. Raises ValueError without calibration."""
    layout.check_state(state)
    if camera.hand_from_camera is not None:
        return base_from_hand(layout, state, camera.hand) @ camera.hand_from_camera.astype(np.float64)
    if camera.base_from_camera is None:
        raise ValueError(f"camera name={camera.name!r} has no pose: give base_from_camera or hand_from_camera.")
    return np.broadcast_to(camera.base_from_camera.astype(np.float64), (*state.shape[:-1], 4, 4)).copy()


def unproject(
    depth_m: Float[np.ndarray, "*any H W"], intrinsics: Float[np.ndarray, "3 3"], depth_at: float = 0.5
) -> Float[np.ndarray, "*any H W 3"]:
    """Depth images to points in the camera's frame (metres). Unknown depth (0) gives the camera's centre."""
    height, width = depth_m.shape[-2:]
    column, row = np.meshgrid(np.arange(width) + depth_at, np.arange(height) + depth_at)
    rays = np.stack([column, row, np.ones_like(row)], axis=-1) @ np.linalg.inv(intrinsics).T
    return (depth_m[..., None] * rays).astype(np.float32)


def project(points: Float[np.ndarray, "*any 3"], intrinsics: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "*any 2"]:
    """Points in the camera's frame, before it, to places in the image (column, row; pixels): unproject's inverse."""
    place = points @ intrinsics.T
    return place[..., :2] / place[..., 2:]


def transformed(
    points: Float[np.ndarray, "*any H W 3"], target_from_source: Float[np.ndarray, "*any 4 4"]
) -> Float[np.ndarray, "*any H W 3"]:
    """Point images into another frame, each with its own pose."""
    rotation, translation = target_from_source[..., :3, :3], target_from_source[..., :3, 3]
    return (points @ np.swapaxes(rotation, -1, -2)[..., None, :, :] + translation[..., None, None, :]).astype(
        np.float32
    )


def known_pixels(depth_m: Float[np.ndarray, "*any"], camera: Camera) -> Bool[np.ndarray, "*any"]:
    """True where depth is a finite number within the camera's range; 0 means unknown."""
    return np.isfinite(depth_m) & (depth_m > 0) & (depth_m >= camera.near_m) & (depth_m <= camera.far_m)


def flying_pixels(points: Float[np.ndarray, "*any H W 3"]) -> Bool[np.ndarray, "*any H W"]:
    """True for pixels that hang between two surfaces: camera-frame points on a slope too steep to be seen.

    The segment to each neighbour makes an angle with the line of sight; below ``MIN_ANGLE_DEG`` on both sides of a
    row or column, with depth going the same way, the pixel mixes near and far. Unknown depth counts as far away: that
    is where an imagined edge fades to. The last pixel before a clean jump is steep on one side only, and a thin object
    is nearer than both sides: both stay.
    """
    flying = np.zeros(points.shape[:-1], dtype=bool)
    for axis in (-2, -1):  # along columns, then along rows
        line = np.moveaxis(points, axis - 1, 0)
        first, second = line[:-1], line[1:]
        segment, sight = second - first, first + second
        across = np.linalg.norm(np.cross(segment, sight), axis=-1)
        longest = np.linalg.norm(segment, axis=-1) * np.linalg.norm(sight, axis=-1)
        is_steep = across < np.sin(np.radians(MIN_ANGLE_DEG)) * longest
        known, next_known = first[..., 2] > 0, second[..., 2] > 0
        slope = np.where(known & next_known, np.sign(segment[..., 2]) * is_steep, known.astype(int) - next_known)
        np.moveaxis(flying, axis, 0)[1:-1] |= (slope[:-1] != 0) & (slope[:-1] == slope[1:])
    return flying


def base_points(prediction: Prediction, layout: Layout) -> Float[np.ndarray, "V T H W 3"]:
    """Every pixel of every view and time in the base frame (metres); NaN where unknown, flying or uncalibrated."""
    video, depth = world(prediction)
    points = np.full(video.shape, np.nan, dtype=np.float32)
    for view, camera in enumerate(prediction.cameras):
        if camera.intrinsics is None or not camera.is_calibrated:
            continue
        in_camera = unproject(depth[view], camera.intrinsics, camera.depth_at)
        keep = known_pixels(depth[view], camera) & ~flying_pixels(in_camera)
        poses = camera_poses(camera, prediction.state, layout)
        points[view] = np.where(keep[..., None], transformed(in_camera, poses), np.nan)
    return points


def fuse(prediction: Prediction, layout: Layout, step: int, *, voxel_m: float | None = None) -> PointCloud:
    """All calibrated views of one time step as one cloud; ``voxel_m`` keeps one point per cube of that size."""
    video, depth = world(prediction)
    if not 0 <= step < video.shape[1]:
        raise ValueError(f"step={step}: this prediction has the steps 0..{video.shape[1] - 1}.")
    if not any(camera.is_calibrated for camera in prediction.cameras):
        names = ", ".join(camera.name for camera in prediction.cameras)
        raise ValueError(f"cameras={names}: none is calibrated; give intrinsics and a pose to at least one.")
    now = slice(step, step + 1)
    moment = replace(prediction, video=video[:, now], depth=depth[:, now], state=prediction.state[now])
    points = base_points(moment, layout)[:, 0]
    keep = np.isfinite(points).all(axis=-1)
    cloud = PointCloud(points[keep], video[:, step][keep], np.nonzero(keep)[0])
    return cloud if voxel_m is None else thinned(cloud, voxel_m)


def has_points(prediction: Prediction, layout: Layout) -> bool:
    """True where ``fuse`` finds a point at some step: it takes depth, a calibrated camera and a known pixel."""
    if prediction.depth is None or not any(camera.is_calibrated for camera in prediction.cameras):
        return False
    return any(len(fuse(prediction, layout, step).points) for step in range(len(prediction.state)))


def world(prediction: Prediction) -> tuple[UInt8[np.ndarray, "V T H W 3"], Float[np.ndarray, "V T H W"]]:
    """Video and depth of a prediction. Raises ValueError when either is missing, or when sizes disagree."""
    video, depth = pictures_of(prediction), prediction.depth
    if depth is None:
        raise ValueError("prediction.depth=None: there is no cloud without depth; use a model with a depth branch.")
    return video, depth


def pictures_of(prediction: Prediction) -> UInt8[np.ndarray, "V T H W 3"]:
    """The video of a prediction. Raises ValueError when it holds actions only, or when sizes disagree."""
    video = prediction.video
    if video is None:
        raise ValueError("prediction.video=None: this answer holds actions only; take the second one, with the world.")
    depth = video.shape[:-1] if prediction.depth is None else prediction.depth.shape
    sizes = {"depth": depth, "cameras": len(prediction.cameras), "state": len(prediction.state)}
    if sizes != {"depth": video.shape[:-1], "cameras": len(video), "state": video.shape[1]}:
        raise ValueError(f"prediction has video {video.shape} but {sizes}: one camera per view, one state per frame.")
    return video


def thinned(cloud: PointCloud, voxel_m: float) -> PointCloud:
    """One point per cube of ``voxel_m`` metres: the mean of what is in it; the view of its first point."""
    if voxel_m <= 0:
        raise ValueError(f"voxel_m={voxel_m}: must be a size in metres, for example 0.005.")
    cell = np.floor(cloud.points / voxel_m).astype(np.int64)
    cell -= cell.min(axis=0, initial=0)
    sizes = cell.max(axis=0, initial=0) + 1
    key = (cell[:, 0] * sizes[1] + cell[:, 1]) * sizes[2] + cell[
        :, 2
    ]  # one number per cube sorts far faster than three
    _, first, member, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = [np.bincount(member, weights=values[:, c].astype(np.float64), minlength=len(count)) for c in range(3)]
        return np.stack(sums, axis=-1) / count[:, None]

    return PointCloud(
        mean(cloud.points).astype(np.float32), mean(cloud.colours).round().astype(np.uint8), cloud.view[first]
    )
