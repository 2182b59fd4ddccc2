"""The three cameras of Meta-World: two static ones that frame the table, one rigid to the hand.

MuJoCo's own cameras look along -z with y up; ours (records.Camera) look along +z with y down.
"""

from typing import Any, NamedTuple

import numpy as np

from xwam.records import Camera, Pose
from xwam.robot.rotations import quat_from_matrix

OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


class View(NamedTuple):
    """Where a camera stands (metres) and looks; in the world, or in the hand's frame where ``on_hand``."""

    mujoco_name: str  # the camera of Meta-World's model that is moved here
    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float]
    fovy_degrees: float
    near_m: float
    far_m: float
    on_hand: bool = False


# The static views just hold every task's objects, goals and hand paths (a table of 0.9 m x 0.5 m) from opposite sides:
# "left" sees what faces the table's far end, "right" the fronts of drawers, doors and buttons.
VIEWS = {
    "left": View("corner", (-0.73, 1.12, 0.87), (-0.04, 0.62, 0.10), (0, 0, 1), 36, 0.5, 2.0),
    "right": View("corner3", (0.80, 0.15, 0.84), (0.07, 0.64, 0.10), (0, 0, 1), 36, 0.5, 2.0),
    "wrist": View("gripperPOV", (-0.06, -0.10, 0.10), (0.11, 0.02, 0.0), (-1, 0, 0), 70, 0.08, 1.2, on_hand=True),
}


def place_cameras(model: Any) -> None:
    """Move the model's cameras to where ``VIEWS`` says; also the wrist camera is now rigid (it used to track)."""
    for view in VIEWS.values():
        camera, pose = model.camera(view.mujoco_name).id, look_at(view)
        model.cam_mode[camera] = 0  # fixed to its body
        model.cam_pos[camera] = pose[:3, 3]
        model.cam_quat[camera] = quat_from_matrix((pose @ OPENCV_FROM_OPENGL)[:3, :3])
        model.cam_fovy[camera] = view.fovy_degrees


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


def camera_records(width_px: int, height_px: int) -> dict[str, Camera]:
    """What ``VIEWS`` says, as calibrated cameras with images of this size."""
    cameras = {}
    for name, view in VIEWS.items():
        focal = 0.5 * height_px / np.tan(np.deg2rad(view.fovy_degrees) / 2)
        cameras[name] = Camera(
            name=name,
            width=width_px,
            height=height_px,
            intrinsics=np.array([[focal, 0, width_px / 2], [0, focal, height_px / 2], [0, 0, 1.0]]),
            base_from_camera=None if view.on_hand else look_at(view),
            hand_from_camera=look_at(view) if view.on_hand else None,
            near_m=view.near_m,
            far_m=view.far_m,
        )
    return cameras
