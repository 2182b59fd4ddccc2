"""The cameras of MuJoCo's simulators: static ones that frame the table, and some rigid to a hand.

MuJoCo's own cameras look along -z with y up; ours (records.Camera) look along +z with y down.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from xwam.records import Camera, Pose
from xwam.robot.rotations import quat_from_matrix
from xwam.sim.render import Marker, Renderer

OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


class View(NamedTuple):
    """Where a camera stands (metres) and looks; in the world, or in the frame of the ``hand`` that carries it."""

    mujoco_name: str  # the camera of the simulator's model that is moved here
    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float]
    fovy_degrees: float
    near_m: float
    far_m: float
    hand: str | None = None


def place_cameras(model: Any, views: Mapping[str, View], body_from_hand: Pose | None = None) -> None:
    """Move the model's cameras to where ``views`` say; all are rigid then (Meta-World's on the wrist tracks by itself).

    ``body_from_hand``: the hand's frame in the body that carries its camera, where they are not the same.
    """
    for view in views.values():
        camera, pose = model.camera(view.mujoco_name).id, look_at(view)
        if view.hand is not None and body_from_hand is not None:
            pose = body_from_hand @ pose
        model.cam_mode[camera] = 0  # fixed to its body
        model.cam_pos[camera] = pose[:3, 3]
        model.cam_quat[camera] = quat_from_matrix((pose @ OPENCV_FROM_OPENGL)[:3, :3])
        model.cam_fovy[camera] = view.fovy_degrees


def look(
    renderer: Renderer, data: Any, views: Mapping[str, View], markers: Sequence[Marker] = ()
) -> tuple[dict[str, UInt8[np.ndarray, "H W 3"]], dict[str, Float32[np.ndarray, "H W"]]]:
    """RGB and depth (metres) of every view by name; depth is 0 (unknown) beyond a view's ``far_m``."""
    images, depth = {}, {}
    for name, view in views.items():
        images[name], metres = renderer.render(data, view.mujoco_name, markers)
        depth[name] = np.where(metres <= view.far_m, metres, np.float32(0))
    return images, depth


def look_at(view: View) -> Pose:
    """``parent_from_camera``: the camera's pose in the world or in the hand's frame."""
    eye = np.array(view.eye, dtype=np.float64)
    forward = np.array(view.target) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, np.array(view.up))
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, eye], axis=1)
    return pose


def camera_records(views: Mapping[str, View], width_px: int, height_px: int) -> dict[str, Camera]:
    """What ``views`` say, as calibrated cameras with images of this size."""
    cameras = {}
    for name, view in views.items():
        focal = 0.5 * height_px / np.tan(np.deg2rad(view.fovy_degrees) / 2)
        cameras[name] = Camera(
            name=name,
            width=width_px,
            height=height_px,
            intrinsics=np.array([[focal, 0, width_px / 2], [0, focal, height_px / 2], [0, 0, 1.0]]),
            base_from_camera=look_at(view) if view.hand is None else None,
            hand_from_camera=None if view.hand is None else look_at(view),
            hand=view.hand or "left",
            near_m=view.near_m,
            far_m=view.far_m,
        )
    return cameras
