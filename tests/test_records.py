"""Cameras are looked at where they enter."""

import numpy as np
import pytest

from xwam.records import Camera

POSE = np.eye(4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width=0, height=10: must be 1 or more"),
        ({"intrinsics": np.full((3, 3), np.nan)}, "intrinsics has shape .*: must be 3 x 3 finite numbers"),
        ({"intrinsics": np.diag([-5.0, 5, 1])}, "needs positive focal lengths"),
        ({"intrinsics": np.diag([0.8, 0.8, 1])}, "needs positive focal lengths of a pixel or more"),
        ({"intrinsics": np.array([[5.0, 0, 0], [0, 5, 0], [5, 5, 1]])}, "last row 0 0 1"),
        ({"base_from_camera": POSE + np.eye(4)[[3, 0, 1, 2]]}, "needs a rotation"),
        ({"base_from_camera": np.diag([1.0, 1, -1, 1])}, "needs a rotation"),
        ({"hand_from_camera": np.diag([2.0, 2, 2, 1])}, "needs a rotation"),
        ({"hand_from_camera": POSE, "base_from_camera": POSE}, "give one"),
        ({"near_m": 2.0, "far_m": 1.0}, "need 0 < near_m < far_m"),
        ({"depth_at": np.nan}, "depth_at=nan: a place in a pixel, such as 0.5"),
    ],
)
def test_calibration_that_is_none_is_refused(fields, message):
    given = {"name": "front", "width": 10, "height": 10} | fields
    with pytest.raises(ValueError, match=message):
        Camera(**given)


def test_a_pose_from_a_file_of_two_digits_is_one():
    turn = np.array([[0.7, -0.714, 0], [0.714, 0.7, 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = turn
    assert Camera(
        name="front", width=10, height=10, intrinsics=np.diag([5.0, 5, 1]), base_from_camera=pose
    ).is_calibrated
