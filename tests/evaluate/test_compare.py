"""Imagined against real: every number in its place, beside what a model that imagines nothing would get."""

from dataclasses import replace

import numpy as np
import pytest

from tests.model.test_depth_teacher import save_tiny_model
from tests.view.scene import LAYOUT, make_imagined, make_real
from xwam.evaluate import metrics
from xwam.evaluate.compare import compare_worlds, ended, standard_errors, summarize
from xwam.evaluate.geometry_metrics import cloud_distances
from xwam.model.depth_teacher import Alignment, MonocularDepth, to_metres
from xwam.view.points import base_points, fuse

STEPS = 3


@pytest.fixture(scope="module")
def real():
    return make_real(num_steps=STEPS, size=40)


@pytest.fixture(scope="module")
def scores(real):
    return compare_worlds(make_imagined(real), real, LAYOUT)


def test_a_perfect_world_has_no_error(real):
    found = compare_worlds(real, real, LAYOUT)
    for name in ("abs_rel", "rmse_m", "chamfer_m", "abs_rel_aligned", "path_left_position_m"):
        np.testing.assert_allclose(found[name], 0, atol=1e-9, err_msg=name)
    for name in ("ssim", "delta1", "delta2", "delta3", "f_5mm", "f_10mm", "f_20mm", "coverage", "delta1_aligned"):
        np.testing.assert_allclose(found[name], 1, atol=1e-9, err_msg=name)
    assert (found["psnr_db"] == metrics.PSNR_LIMIT_DB).all()
    assert found["consistency_m"].max() < 1e-5


def test_what_lies_beyond_the_range_of_a_camera_is_unknown(real):
    """No picture of depth can say it: who answers "unknown" is not wrong, who repeats it is not right."""
    far = replace(real, depth=real.depth.copy())
    far.depth[:, :, :8] = 2 * max(camera.far_m for camera in real.cameras)
    far.depth[:, :, 8:10] = min(camera.near_m for camera in real.cameras) / 2
    unknown = replace(real, depth=real.depth.copy())
    unknown.depth[:, :, :10] = 0
    expected, found = (compare_worlds(make_imagined(real), truth, LAYOUT) for truth in (unknown, far))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_one_number_per_future_frame(scores):
    curves = {name for name, value in scores.items() if value.shape == (STEPS - 1,)}
    assert {"psnr_db", "ssim", "abs_rel", "chamfer_m", "f_5mm", "consistency_m", "path_left_position_m"} <= curves
    turns = {"path_rotation_rad", "path_left_position_rotation_rad"}
    assert set(scores) - curves == turns | {ended(name, "_copy") for name in turns}
    assert scores["psnr_db"][0] > scores["psnr_db"][1], "this imagination decays"
    assert scores["path_left_position_m"][0] < scores["path_left_position_m"][1]


def test_pixels_and_depth_count_over_static_views_only(real, scores):
    imagined = make_imagined(real)
    spoiled = replace(imagined, video=imagined.video.copy(), depth=imagined.depth.copy())
    spoiled.video[2], spoiled.depth[2] = 0, 0  # the wrist camera
    found = compare_worlds(spoiled, real, LAYOUT)
    for name in ("psnr_db", "ssim", "abs_rel", "abs_rel_aligned", "coverage"):
        np.testing.assert_array_equal(found[name], scores[name], err_msg=name)
    assert (found["chamfer_m"] != scores["chamfer_m"]).all(), "clouds are fused from all views"


def test_near_the_hand_counts_what_is_near_the_hand(real, scores):
    """Spoil the depth of all that is further than 50 cm from it: the whole cloud suffers, the near one does not."""
    imagined = make_imagined(real)
    hand = real.state[:, LAYOUT.state_slice("left_position")]
    far = np.linalg.norm(base_points(real, LAYOUT) - hand[:, None, None], axis=-1) > 0.5
    assert 0.02 < far.mean() < 0.98
    moved = replace(imagined, depth=np.where(far, imagined.depth * 1.2, imagined.depth).astype(np.float32))
    found = compare_worlds(moved, real, LAYOUT)
    assert (found["chamfer_m"] > 1.03 * scores["chamfer_m"]).all()
    np.testing.assert_allclose(found["near_chamfer_m"], scores["near_chamfer_m"], rtol=0.05)
    assert (compare_worlds(real, real, LAYOUT)["near_chamfer_m"] == 0).all()


def test_what_the_autoencoder_loses_is_scored_as_an_imagination_would_be(real, scores):
    imagined = make_imagined(real)
    found = compare_worlds(real, real, LAYOUT, recoded=imagined)
    names = {"psnr_vae_db", "moving_psnr_vae_db", "ssim_vae", "abs_rel_vae", "chamfer_vae_m", "f_5mm_vae"}
    assert names <= found.keys() - scores.keys()
    for name in names:
        np.testing.assert_array_equal(found[name], scores[name.replace("_vae", "")], err_msg=name)
    assert (found["psnr_db"] > found["psnr_vae_db"]).all(), "the imagined world is not touched"


def test_copying_is_scored_with_true_first_depth(real, scores):
    still = np.broadcast_to(real.depth[:2, :1], real.depth[:2].shape)
    expected = [metrics.depth_scores(still[:, k].copy(), real.depth[:2, k]).abs_rel for k in (1, 2)]
    np.testing.assert_allclose(scores["abs_rel_copy"], expected)
    expected = metrics.psnr(metrics.copy_last_frame(real.video[:2]), real.video[:2])[:, 1:].mean(0)
    np.testing.assert_allclose(scores["psnr_copy_db"], expected)
    assert scores["chamfer_copy_m"].shape == (STEPS - 1,)
    first = fuse(real, LAYOUT, 0).points  # a wrist camera's frame stays where it was taken, too
    expected = [cloud_distances(first, fuse(real, LAYOUT, k).points).scores().chamfer_m for k in (1, 2)]
    np.testing.assert_allclose(scores["chamfer_copy_m"], expected)


def test_a_hand_that_stays_is_scored_beside_the_imagined_one(real, scores):
    moved = np.linalg.norm(real.state[1:, :3] - real.state[0, :3], axis=1)
    assert moved.min() > 0
    for name in ("path_copy_m", "path_left_position_copy_m"):
        np.testing.assert_allclose(scores[name], moved, rtol=1e-5)
    angle = 2 * np.arccos(np.clip(np.abs(real.state[1:, 3:7] @ real.state[0, 3:7]), 0, 1)).mean()
    for name in ("path_rotation_copy_rad", "path_left_position_rotation_copy_rad"):
        np.testing.assert_allclose(scores[name], angle, atol=1e-3)


def test_alignment_forgives_a_wrong_scale(real):
    found = compare_worlds(replace(real, depth=(0.7 * real.depth).astype(np.float32)), real, LAYOUT)
    np.testing.assert_allclose(found["abs_rel"], 0.3, atol=1e-6)
    np.testing.assert_allclose(found["abs_rel_aligned"], 0, atol=1e-6)


class Knows:
    """A teacher that knows the depth, in units of its own."""

    name = "knows"

    def __init__(self, depth_m, kind):
        known = np.where(depth_m > 0, depth_m, 1e3)  # what nothing is hit by is far away
        self.kind, self.answer = kind, 2 * known if kind == "metric" else 3 / known + 0.5

    def estimate(self, images):
        return self.answer.reshape(images.shape[:-1]).astype(np.float32)


def test_a_metric_teacher_is_scored_raw_and_aligned(real):
    found = compare_worlds(make_imagined(real), real, LAYOUT, teacher=Knows(real.depth, "metric"))
    near = real.depth[:2, 1:][real.depth[:2, 1:] > 0]
    assert near.max() < 2.0  # twice that is still within far_m = 4
    np.testing.assert_allclose(found["abs_rel_teacher"], 1, atol=1e-5)
    np.testing.assert_allclose(found["abs_rel_teacher_aligned"], 0, atol=1e-5)
    assert (found["chamfer_teacher_m"] > 0.1).all()


def test_a_relative_teacher_has_no_metres_of_its_own(real):
    found = compare_worlds(make_imagined(real), real, LAYOUT, teacher=Knows(real.depth, "relative"))
    assert "abs_rel_teacher" not in found
    np.testing.assert_allclose(found["abs_rel_teacher_aligned"], 0, atol=1e-4)
    np.testing.assert_allclose(found["coverage_teacher_aligned"], 1)


def test_a_real_estimator_looks_at_the_imagined_pictures(real, tmp_path):
    """transformers' own code on small random weights: worse than the depth branch, as it must be."""
    teacher = MonocularDepth(save_tiny_model(tmp_path, "metric"))
    imagined = make_imagined(real)
    found = compare_worlds(imagined, real, LAYOUT, teacher=teacher)
    expected = to_metres(teacher.estimate(imagined.video[:2, 1]), "metric", Alignment(), far_m=4.0)
    assert found["abs_rel_teacher"][0] == pytest.approx(metrics.depth_scores(expected, real.depth[:2, 1]).abs_rel)
    assert (found["abs_rel_teacher"] > found["abs_rel"]).all()
    assert np.isfinite(found["chamfer_teacher_aligned_m"]).all()
    dark = replace(imagined, video=np.zeros_like(imagined.video))
    assert (compare_worlds(dark, real, LAYOUT, teacher=teacher)["abs_rel_teacher"] != found["abs_rel_teacher"]).all()


def test_means_leave_out_what_is_missing():
    rows = [{"a": np.array([1.0, 2.0, 3.0]), "b": np.array(1.0)}, {"a": np.array([3.0]), "b": np.array(2.0)}]
    rows.append({"a": np.array([np.nan, 4.0])})
    found = summarize(rows)
    assert found["per_step"] == {"a": [2.0, 3.0, 3.0]}
    assert (found["a"], found["b"]) == (pytest.approx(13 / 5), 1.5)


def test_errors_of_means_count_episodes_and_not_clips():
    """Means of the episodes: 2, 5 and 8, so the standard deviation is 3."""
    rows = [{"a": np.array([1.0, 3.0]), "b": np.array(1.0)}, {"a": np.array([5.0, np.nan])}, {"a": np.array([8.0])}]
    expected = 3 / np.sqrt(3)
    assert standard_errors(rows, [7, 4, 2])["a"] == pytest.approx(expected)
    again = [row for row in rows for _ in range(10)]
    assert standard_errors(again, [7] * 10 + [4] * 10 + [2] * 10)["a"] == pytest.approx(expected), "nothing is gained"
    assert np.isnan(standard_errors(rows, [7, 4, 2])["b"]), "one episode alone has it"
    assert np.isnan(standard_errors(rows, [7, 7, 7])["a"])


def test_a_world_without_calibration_still_has_pixels_and_depth(real):
    bare = tuple(replace(c, intrinsics=None, base_from_camera=None, hand_from_camera=None) for c in real.cameras)
    found = compare_worlds(replace(make_imagined(real), cameras=bare), replace(real, cameras=bare), LAYOUT)
    assert {"psnr_db", "abs_rel"} <= set(found)
    assert not {"chamfer_m", "consistency_m"} & set(found)


def test_clouds_are_those_of_the_pages(real, scores):
    from xwam.evaluate.geometry_metrics import cloud_distances

    expected = cloud_distances(fuse(make_imagined(real), LAYOUT, 2).points, fuse(real, LAYOUT, 2).points).scores()
    assert tuple(scores[n][1] for n in ("chamfer_m", "f_5mm", "f_10mm", "f_20mm")) == pytest.approx(expected)


def test_actions_only_cannot_be_compared(real):
    with pytest.raises(ValueError, match="actions only"):
        compare_worlds(replace(real, video=None, depth=None), real, LAYOUT)
