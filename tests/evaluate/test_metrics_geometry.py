from dataclasses import replace

import numpy as np
import pytest

from tests.view.scene import LAYOUT, make_imagined, make_real
from xwam.evaluate.geometry_metrics import (
    MAX_QUERIES,
    box,
    cloud_distances,
    hand_path_scores,
    near_hands,
    view_consistency,
)
from xwam.records import Camera
from xwam.robot.layout import two_arm_layout
from xwam.view.points import base_points, camera_poses


def test_one_camera_cannot_disagree_with_itself():
    real = make_real(num_steps=2, size=24)
    one = real.cameras[:1]
    poses = np.stack([camera_poses(camera, real.state[0], LAYOUT) for camera in one])
    found = view_consistency(base_points(real, LAYOUT)[:1, 0], real.depth[:1, 0], one, poses)
    assert np.isnan([found.error_m, found.seen_through]).all()


def test_cloud_scores_by_hand():
    """One point each way: a is 6 mm from b; b has a second point 30 mm from a."""
    a = np.array([[0.0, 0, 0]])
    b = np.array([[0.006, 0, 0], [0.03, 0, 0]])
    scores = cloud_distances(a, b).scores()
    assert scores.chamfer_m == pytest.approx((0.006 + (0.006 + 0.03) / 2) / 2)
    assert scores.f_5mm == 0
    assert scores.f_10mm == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert scores.f_20mm == pytest.approx(2 / 3)
    assert cloud_distances(b, a).scores() == pytest.approx(scores)


def test_equal_and_empty_clouds():
    cloud = np.random.default_rng(0).uniform(size=(100, 3)).astype(np.float32)
    assert cloud_distances(cloud, cloud).scores() == (0, 1, 1, 1)
    assert all(np.isnan(cloud_distances(cloud, cloud[:0]).scores())), "no reference, no score"
    missed = cloud_distances(cloud[:0], cloud).scores()
    assert np.isnan(missed.chamfer_m)
    assert missed[1:] == (0, 0, 0), "nothing of it was found"


def test_chamfer_against_all_pairs():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(60, 3)), generator.normal(size=(80, 3))
    pairs = np.linalg.norm(a[:, None] - b[None], axis=-1)
    assert cloud_distances(a, b).scores().chamfer_m == pytest.approx((pairs.min(1).mean() + pairs.min(0).mean()) / 2)


def test_large_clouds_are_sampled_the_same_way_every_time():
    generator = np.random.default_rng(2)
    a, b = generator.uniform(size=(2 * MAX_QUERIES, 3)), generator.uniform(size=(2 * MAX_QUERIES, 3))
    assert cloud_distances(a, b).scores() == cloud_distances(a, b).scores()
    assert cloud_distances(a, b).scores() != cloud_distances(a, b, seed=1).scores()


def test_thinning_adds_no_distance():
    """A large cloud without one of its points is still the same surface: only that point is far from it."""
    cloud = np.random.default_rng(3).uniform(size=(3 * MAX_QUERIES, 3))
    assert cloud_distances(cloud, cloud[1:]).scores().chamfer_m < 1e-6


def test_part_of_the_clouds_counts_by_itself():
    """The left half is 1 mm off and the right half 5 mm; the neighbour may lie outside the part."""
    left, right = np.array([[-0.2, 0.0, 0.0], [-0.1, 0.0, 0.0]]), np.array([[0.2, 0.0, 0.0]])
    reference = np.concatenate([left, right])
    points = reference + np.array([[0, 0, 0.001], [0, 0, 0.001], [0, 0, 0.005]])
    apart = cloud_distances(points, reference)
    assert apart.scores().chamfer_m == pytest.approx((0.001 + 0.001 + 0.005) / 3)
    region = box((-1.0, -1.0, -1.0, 0.0, 1.0, 1.0))
    assert apart.scores(region.holds).chamfer_m == pytest.approx(0.001)
    assert apart.scores(lambda p: near_hands(p, right, radius_m=0.01)).chamfer_m == pytest.approx(0.005)
    assert np.isnan(apart.scores(box((5.0, 5.0, 5.0, 6.0, 6.0, 6.0)).holds).chamfer_m)
    away = cloud_distances(points + np.array([9.0, 0, 0]), reference).scores(region.holds)
    assert away.f_20mm == 0, "what is imagined elsewhere is not left out of the count"
    assert away.chamfer_m > 5
    edge = cloud_distances(np.array([[-0.001, 0, 0]]), np.array([[-0.001, 0, 0], [0.001, 0, 0]]))
    assert edge.scores(region.holds).chamfer_m == 0


@pytest.mark.parametrize(
    "corners", [(0.0, 0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 1.0)]
)
def test_a_region_has_a_low_and_a_high_corner(corners):
    with pytest.raises(ValueError, match="region="):
        box(corners)


def two_cameras_above_a_plane(depth_at=0.5):
    """Two cameras 2 m above z = 0, looking straight down, 20 cm apart; and the rays on which depth is measured."""
    intrinsics = np.array([[40.0, 0, 20], [0, 40.0, 20], [0, 0, 1]])
    common = {"width": 40, "height": 40, "intrinsics": intrinsics, "depth_at": depth_at}
    cameras = [Camera(name=name, base_from_camera=np.eye(4), **common) for name in "ab"]
    poses = np.tile(np.diag([1.0, -1, -1, 1]), (2, 1, 1))
    poses[:, 2, 3] = 2
    poses[1, 0, 3] = 0.2
    column, row = np.meshgrid(np.arange(40) + depth_at, np.arange(40) + depth_at)
    rays = np.stack([column, row, np.ones_like(row)], axis=-1) @ np.linalg.inv(intrinsics).T
    return cameras, poses, rays


def consistency_of(depth, depth_at=0.5):
    cameras, poses, rays = two_cameras_above_a_plane(depth_at)
    points = (depth[..., None] * rays) @ np.swapaxes(poses[:, :3, :3], 1, 2)[:, None] + poses[:, None, None, :3, 3]
    points[depth == 0] = np.nan
    return view_consistency(points.astype(np.float32), depth, cameras, poses)


def test_views_that_agree_have_no_error():
    depth = np.full((2, 40, 40), 2.0)
    scores = consistency_of(depth)
    assert scores.error_m == pytest.approx(0, abs=1e-6)
    assert scores.seen_through == 0
    assert scores.num_points > 2000
    depth[1, :, :20] = 0  # unknown pixels take no part
    assert consistency_of(depth).error_m == pytest.approx(0, abs=1e-6)
    assert consistency_of(depth).num_points < scores.num_points


@pytest.mark.parametrize("depth_at", [0.5, 0.0, 1.0])
def test_views_agree_wherever_in_a_pixel_depth_was_measured(depth_at):
    """On a plane that rises by a third of x, where a shift by a pixel is off by more than a centimetre."""
    _, poses, rays = two_cameras_above_a_plane(depth_at)
    depth = np.stack([(2 - x / 3) / (1 + rays[..., 0] / 3) for x in poses[:, 0, 3]])
    scores = consistency_of(depth, depth_at)
    assert scores.error_m == pytest.approx(0, abs=1e-6)
    assert scores.num_points > 2000


def test_exact_views_of_a_world_agree_and_imagined_ones_less():
    """Three cameras on a table with boxes: no error of its own from pixels that do not coincide."""
    real = make_real(num_steps=2, size=48)
    errors = []
    for world in (real, make_imagined(real)):
        poses = np.stack([camera_poses(camera, world.state[1], LAYOUT) for camera in world.cameras])
        scores = view_consistency(base_points(world, LAYOUT)[:, 1], world.depth[:, 1], world.cameras, poses)
        assert scores.num_points > 2000
        errors.append(scores.error_m)
    assert errors[0] < 1e-6
    assert errors[1] > 5e-3


def test_a_view_that_is_too_far_shows():
    depth = np.full((2, 40, 40), 2.0)
    depth[1] = 2.03  # 3 cm below the plane, in the eyes of camera b
    assert consistency_of(depth).error_m == pytest.approx(0.03, rel=1e-3)
    depth[0, :, :20] -= 0.1  # a half that is wrong by far more does not show in the error, only beside it
    scores = consistency_of(depth)
    assert scores.error_m == pytest.approx(0.03, rel=1e-3)
    assert scores.seen_through > 0.2


def test_looking_through_is_counted_and_hiding_is_not():
    """Camera a sees a plane half a metre above the one of camera b: b looks through a's, a hides b's."""
    depth = np.full((2, 40, 40), 2.0)
    depth[0] = 1.5
    scores = consistency_of(depth)
    assert scores.seen_through == 1
    assert np.isnan(scores.error_m)


def test_hand_path_by_hand():
    layout = two_arm_layout("test")
    state = np.zeros((3, 16), dtype=np.float32)
    state[:, [3, 11]] = 1
    moved = state.copy()
    moved[:, 0] = [0, 0.03, 0]
    moved[:, 1] = [0, 0.04, 0.1]
    moved[1, 3:7] = [np.cos(0.1), np.sin(0.1), 0, 0]  # a turn of 0.2 rad
    moved[2, 3:7] = [-1, 0, 0, 0]  # the same rotation as (1, 0, 0, 0)
    scores = hand_path_scores(moved, state, layout)
    assert scores["left_position"][:2] == pytest.approx((0.075, 0.1), abs=1e-6), "the first state is given"
    np.testing.assert_allclose(scores["left_position"].steps_m, [0, 0.05, 0.1], atol=1e-6)
    assert scores["right_position"][:2] == pytest.approx((0, 0), abs=1e-6)
    assert set(hand_path_scores(state, state, two_arm_layout("one", single_arm=True))) == {"left_position"}


def test_path_without_quaternion_has_no_angle():
    layout = two_arm_layout("test", single_arm=True)
    bare = replace(layout, state=(layout.state[0],))
    assert hand_path_scores(np.zeros((2, 3)), np.zeros((2, 3)), bare)["left_position"].rotation_rad is None
