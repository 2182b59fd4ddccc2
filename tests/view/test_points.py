from dataclasses import replace

import numpy as np
import pytest

from tests.view.scene import LAYOUT, TABLE_M, cameras, looking_at, make_imagined, make_real, pinhole, states
from xwam.data.augment import crop_depth
from xwam.images import centre_window, cropped_camera
from xwam.records import Camera
from xwam.robot.actions import base_from_hand
from xwam.view.points import (
    PointCloud,
    base_points,
    camera_poses,
    flying_pixels,
    fuse,
    has_points,
    known_pixels,
    thinned,
    transformed,
    unproject,
)

SIZE = 64


@pytest.fixture(scope="module")
def real():
    return make_real(num_steps=3, size=SIZE)


@pytest.mark.parametrize("crop", [0.5, 0.95, 1.0])
def test_a_plane_stays_where_it_is_after_the_crop_that_training_and_policy_make(crop):
    """Depth is cut by corners (as the published model had it): half a pixel would be millimetres."""
    intrinsics = np.array([[200.0, 0, 64], [0, 200, 64], [0, 0, 1]])
    camera = Camera(name="left", width=128, height=128, intrinsics=intrinsics, base_from_camera=np.eye(4))
    column, row = (np.meshgrid(np.arange(128), np.arange(128))[axis] + 0.5 for axis in (0, 1))
    depth = 1 / (1 - 0.4 * (column - 64) / 200 - 0.3 * (row - 64) / 200)  # the plane z = 1 + 0.4 x + 0.3 y
    window = centre_window(128, 128, crop)
    seen = cropped_camera(camera, window)
    points = unproject(crop_depth(depth[None, None], (window,))[0, 0], seen.intrinsics, seen.depth_at)
    off = points[..., 2] - (1 + 0.4 * points[..., 0] + 0.3 * points[..., 1])
    assert abs(off.mean()) < 5e-5
    if crop == 0.95:
        centred = unproject(crop_depth(depth[None, None], (window,))[0, 0], seen.intrinsics)
        wrong = centred[..., 2] - (1 + 0.4 * centred[..., 0] + 0.3 * centred[..., 1])
        assert abs(wrong.mean()) > 5e-4, "the test can tell"


def test_a_plane_unprojects_to_itself():
    """A camera looks askew at the plane z = 0.1: its exact depth must come back as points of that plane."""
    pose, intrinsics = looking_at((0.9, -0.5, 0.8), (0.3, 0.1, 0.1)), pinhole(SIZE)
    column, row = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    rays = np.stack([column, row, np.ones_like(row)], axis=-1) @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    depth = (0.1 - pose[2, 3]) / rays[..., 2]
    points = transformed(unproject(depth, intrinsics), pose)
    assert np.abs(points[..., 2] - 0.1).max() < 1e-6
    assert not flying_pixels(unproject(depth, intrinsics)).any()


def test_a_sphere_unprojects_to_itself():
    centre, radius, intrinsics = np.array([0.05, -0.02, 1.0]), 0.3, pinhole(SIZE)
    column, row = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    rays = np.stack([column, row, np.ones_like(row)], axis=-1) @ np.linalg.inv(intrinsics).T
    a, b, c = (rays**2).sum(-1), rays @ centre, centre @ centre - radius**2
    inside = b**2 - a * c
    depth = np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, 0)
    points = unproject(depth, intrinsics)
    distance = np.linalg.norm(points - centre, axis=-1)[depth > 0]
    assert (depth > 0).sum() > 500
    assert np.abs(distance - radius).max() < 1e-6


def test_pixel_centres_are_at_one_half():
    intrinsics = np.array([[10.0, 0, 2.0], [0, 10.0, 2.0], [0, 0, 1]])
    points = unproject(np.full((4, 4), 2.0), intrinsics)
    np.testing.assert_allclose(points[0, 0], [-0.3, -0.3, 2.0], atol=1e-6)
    np.testing.assert_allclose(points[2, 1], [-0.1, 0.1, 2.0], atol=1e-6)


def test_leading_axes_are_a_batch():
    depth = np.random.default_rng(0).uniform(0.5, 2, (2, 3, 8, 10)).astype(np.float32)
    intrinsics = pinhole(8)
    poses = np.stack([looking_at((1, y, 1), (0, 0, 0)) for y in range(6)]).reshape(2, 3, 4, 4)
    batched = transformed(unproject(depth, intrinsics), poses)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_allclose(
            batched[i, j], transformed(unproject(depth[i, j], intrinsics), poses[i, j]), atol=1e-6
        )
        np.testing.assert_array_equal(flying_pixels(batched)[i, j], flying_pixels(batched[i, j]))


def test_two_cameras_agree(real):
    """The table's top, seen by three cameras (one on the moving hand), is one plane at one height."""
    points = base_points(real, LAYOUT)
    for view in range(3):
        for step in range(3):
            seen = points[view, step].reshape(-1, 3)
            inner = (np.abs(seen[:, 0] - 0.6) < 0.38) & (np.abs(seen[:, 1]) < 0.43)
            on_table = seen[inner & (np.abs(seen[:, 2] - TABLE_M) < 0.0099)]
            assert len(on_table) > 100
            assert np.quantile(np.abs(on_table[:, 2] - TABLE_M), 0.97) < 1e-5  # the rest: the boxes' lowest rows


def test_every_point_lies_on_a_known_surface(real):
    """The red box spans 0.65..0.75, -0.23..-0.13, 0..0.1: its points are on its faces, in all views."""
    cloud = fuse(real, LAYOUT, 0)
    low, high = np.array([0.65, -0.23, 0.0]), np.array([0.75, -0.13, 0.10])
    near_box = cloud.points[
        ((cloud.points > low - 0.005) & (cloud.points > [-9, -9, 0.002])).all(1) & (cloud.points < high + 0.005).all(1)
    ]
    to_face = np.minimum(np.abs(near_box - low), np.abs(near_box - high)).min(axis=1)
    assert len(near_box) > 30
    assert to_face.max() < 1e-5


def test_crop_and_resize_move_the_camera_not_the_points():
    """Cutting and shrinking the depth image, with the camera's own arithmetic, leaves the points where they were."""
    camera = replace(cameras(64)[0], width=64, height=64)
    depth = make_real(num_steps=1, size=64).depth[0, 0]
    points = unproject(depth, camera.intrinsics)
    cropped = camera.cropped(8.0, 4.0, 48, 40)
    np.testing.assert_allclose(unproject(depth[4:44, 8:56], cropped.intrinsics), points[4:44, 8:56], atol=1e-6)
    # an image of half the size samples the middle of 2 x 2 pixels: compare on a plane, where the mean is exact
    flat = np.full((64, 64), 1.3)
    big = unproject(flat, camera.intrinsics).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    small = unproject(np.full((32, 32), 1.3), camera.resized(32, 32).intrinsics)
    np.testing.assert_allclose(small, big, atol=1e-6)


def test_wrist_camera_follows_the_state():
    state = states(5)
    pose = base_from_hand(LAYOUT, state)
    np.testing.assert_allclose(pose[:, :3, 3], state[:, :3], atol=1e-7)
    np.testing.assert_allclose(pose[0, :3, :3], np.diag([1, -1, -1]), atol=1e-12)
    wrist = camera_poses(cameras()[2], state, LAYOUT)
    np.testing.assert_allclose(wrist[3], pose[3] @ cameras()[2].hand_from_camera)
    assert camera_poses(cameras()[0], state, LAYOUT).shape == (5, 4, 4)


def step_edge(ramp: list[float]) -> np.ndarray:
    depth = np.full((24, 24), 1.5)
    depth[:, :10] = 0.8
    depth[:, 10 : 10 + len(ramp)] = ramp
    return depth


@pytest.mark.parametrize(("ramp", "expected"), [([], []), ([1.1], [10]), ([1.0, 1.3], [10, 11])])
def test_flying_pixels_hang_between_two_surfaces(ramp, expected):
    flying = flying_pixels(unproject(step_edge(ramp), pinhole(24, 20)))
    assert sorted(set(np.nonzero(flying)[1])) == expected
    assert sorted(set(np.nonzero(flying_pixels(unproject(step_edge(ramp).T, pinhole(24, 20))))[0])) == expected


@pytest.mark.parametrize(("ramp", "expected"), [([], []), ([1.1], [10]), ([1.0, 1.3], [10, 11])])
def test_an_edge_that_fades_into_the_unknown_flies(ramp, expected):
    depth = step_edge(ramp)
    depth[:, 10 + len(ramp) :] = 0
    for picture in (depth, depth[:, ::-1]):
        flying = flying_pixels(unproject(picture, pinhole(24, 20)))
        found = np.nonzero(flying if picture is depth else flying[:, ::-1])[1]
        assert sorted(set(found)) == expected


def test_thin_things_and_unknown_pixels_do_not_fly():
    depth = np.full((24, 24), 1.5)
    depth[:, 12] = 0.8  # a pole, one pixel wide
    assert not flying_pixels(unproject(depth, pinhole(24))).any()
    depth[5:9] = 0
    assert not flying_pixels(unproject(depth, pinhole(24))).any()
    depth[:, :12], depth[:, 13:] = 0, 0  # the pole before nothing
    assert not flying_pixels(unproject(depth, pinhole(24))).any()


def test_blurred_depth_is_cleaned(real):
    """Averaging neighbours smears every edge; what survives lies closer to true surfaces than what was cut."""
    true = real.depth[:2]
    left, right = np.roll(true, 1, -1), np.roll(true, -1, -1)
    smeared = np.where(np.minimum(np.minimum(left, true), right) > 0, (left + true + right) / 3, 0)
    error = np.abs(smeared - true)
    flying = np.stack([flying_pixels(unproject(smeared[v], real.cameras[v].intrinsics)) for v in range(2)])
    assert 10 < flying.sum() < 0.1 * flying.size
    assert error[flying].mean() > 5 * error[~flying & (smeared > 0)].mean()


def test_unknown_and_out_of_range_depth_makes_no_points(real):
    camera = Camera(name="c", width=4, height=1, near_m=0.2, far_m=3.0)
    assert known_pixels(np.array([0.0, 0.1, 1.0, 3.5, np.nan]), camera).tolist() == [False, False, True, False, False]
    depth = real.depth.copy()
    depth[0, 1] = 0
    cloud = fuse(replace(real, depth=depth), LAYOUT, 1)
    assert set(cloud.view) == {1, 2}


def test_fuse_keeps_colour_and_view(real):
    cloud = fuse(real, LAYOUT, 2)
    assert cloud.points.dtype == np.float32
    assert cloud.colours.dtype == np.uint8
    assert len(cloud.points) == len(cloud.colours) == len(cloud.view)
    assert set(cloud.view) == {0, 1, 2}
    red = (cloud.colours[:, 0] > 100) & (cloud.colours[:, 1] < 80) & (cloud.colours[:, 2] < 80)
    assert np.abs(cloud.points[red].mean(axis=0) - [0.70, -0.18, 0.06]).max() < 0.04


def test_uncalibrated_views_are_left_out(real):
    bare = Camera(name="left", width=SIZE, height=SIZE)
    cloud = fuse(replace(real, cameras=(bare, *real.cameras[1:])), LAYOUT, 0)
    assert set(cloud.view) == {1, 2}
    with pytest.raises(ValueError, match="none is calibrated"):
        fuse(replace(real, cameras=(bare,) * 3), LAYOUT, 0)


def test_a_world_has_points_where_depth_a_camera_and_a_known_pixel_meet(real):
    late, bare = real.depth.copy(), Camera(name="left", width=SIZE, height=SIZE)
    late[:, :2] = 0
    assert has_points(real, LAYOUT)
    assert has_points(replace(real, depth=late), LAYOUT), "at the last step alone"
    assert not has_points(replace(real, depth=0 * real.depth), LAYOUT)
    assert not has_points(replace(real, depth=None), LAYOUT)
    assert not has_points(replace(real, cameras=(bare,) * 3), LAYOUT)


def test_thinning_keeps_one_mean_point_per_cube():
    cloud = PointCloud(
        np.array([[0.001, 0, 0], [0.003, 0, 0], [0.02, 0, 0], [-0.001, 0, 0]], dtype=np.float32),
        np.array([[10, 0, 0], [20, 0, 0], [90, 0, 0], [50, 0, 0]], dtype=np.uint8),
        np.array([1, 2, 0, 0]),
    )
    thin = thinned(cloud, 0.01)
    np.testing.assert_allclose(thin.points[:, 0], [-0.001, 0.002, 0.02], atol=1e-7)
    assert thin.colours[:, 0].tolist() == [50, 15, 90]
    assert thin.view.tolist() == [0, 1, 0]


def test_imagined_cloud_is_near_the_real_one(real):
    thin = fuse(make_imagined(real), LAYOUT, 2, voxel_m=0.01)
    assert 500 < len(thin.points) < len(fuse(real, LAYOUT, 2).points)


def test_doors_refuse(real):
    with pytest.raises(ValueError, match="step=3"):
        fuse(real, LAYOUT, 3)
    with pytest.raises(ValueError, match="actions only"):
        fuse(replace(real, video=None, depth=None), LAYOUT, 0)
    with pytest.raises(ValueError, match="one state per frame"):
        fuse(replace(real, state=real.state[:2]), LAYOUT, 0)
    with pytest.raises(ValueError, match="voxel_m=0"):
        fuse(real, LAYOUT, 0, voxel_m=0.0)
    with pytest.raises(ValueError, match="has no pose"):
        camera_poses(Camera(name="bare", width=4, height=4), states(2), LAYOUT)
    broken = real.state.copy()
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"not finite at index \[1, 2\]"):
        base_points(replace(real, state=broken), LAYOUT)
