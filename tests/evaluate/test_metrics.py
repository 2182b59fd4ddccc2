import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from xwam.evaluate.metrics import (
    ALEXNET_FILE,
    PSNR_LIMIT_DB,
    _lpips_network,
    action_scores,
    aligning_scale,
    check_same_shape,
    copy_last_frame,
    depth_scores,
    lpips,
    lpips_missing,
    moving_pixels,
    moving_psnr,
    psnr,
    ssim,
    static_views,
    wilson_interval,
)
from xwam.records import Camera
from xwam.robot.layout import two_arm_layout
from xwam.robot.robot_json import layout_of, load_robot

ROBOTS = Path(__file__).parents[2] / "robots"


def random_images(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


# --- images


def test_psnr_by_hand():
    """A constant error of 5 levels: MSE 25, PSNR = 10 log10(65025 / 25) = 34.1514 dB."""
    reference = np.full((2, 3, 8, 8, 3), 100, dtype=np.uint8)
    assert psnr(reference + np.uint8(5), reference) == pytest.approx(np.full((2, 3), 34.15140352195873))
    assert (psnr(reference, reference) == PSNR_LIMIT_DB).all()


def test_psnr_counts_each_image_alone():
    reference = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    image = reference.copy()
    image[1] = 255
    assert psnr(image, reference).tolist() == [PSNR_LIMIT_DB, 0.0]


def ssim_by_loops(x, y):
    """SSIM of one channel, straight from the paper's equations 13 to 16: every window by itself."""
    offset = np.arange(-5, 6)
    weight = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    c1, c2, values = 6.5025, 58.5225, []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = (v[row : row + 11, column : column + 11].astype(float) for v in (x, y))
            ma, mb = (weight * a).sum(), (weight * b).sum()
            va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
            cov = (weight * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return np.mean(values)


def test_ssim_against_the_papers_equations():
    reference = random_images((2, 16, 19))
    image = (0.7 * reference + 0.3 * random_images((2, 16, 19), seed=1)).astype(np.uint8)
    expected = [
        np.mean([ssim_by_loops(x[..., c], y[..., c]) for c in range(3)]) for x, y in zip(image, reference, strict=True)
    ]
    np.testing.assert_allclose(ssim(image, reference), expected, rtol=1e-9)
    np.testing.assert_allclose(ssim(reference, reference), 1)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(random_images((8, 20)), random_images((8, 20)))


def test_a_frozen_picture_only_fools_the_plain_psnr():
    """A square of 4 pixels moves from black to 200; the rest stands still."""
    real = np.zeros((1, 3, 10, 10, 3), dtype=np.uint8)
    real[0, 1:, 2:4, 2:4] = 200
    real[0, :, 9, 9] = [[0, 0, 0], [10, 10, 10], [10, 10, 10]]  # sensor noise is no motion
    assert moving_pixels(real).sum(axis=(-2, -1)).tolist() == [[0, 4, 4]]
    frozen = copy_last_frame(real)
    assert (frozen == 0).all()
    assert psnr(frozen, real)[0, 1] > 14
    moved = moving_psnr(frozen, real)[0]
    assert np.isnan(moved[0])
    assert moved[1] == pytest.approx(10 * np.log10((255 / 200) ** 2))
    assert moving_psnr(real, real)[0, 1] == PSNR_LIMIT_DB


def test_static_views_are_those_without_a_hand():
    wrist = Camera(name="wrist", width=4, height=4, hand_from_camera=np.eye(4))
    fixed = Camera(name="left", width=4, height=4, base_from_camera=np.eye(4))
    assert static_views([fixed, wrist, Camera(name="bare", width=4, height=4)]) == [0, 2]
    assert static_views([wrist, wrist]) == [0, 1], "a robot with wrist cameras alone is scored by them"


@pytest.fixture
def no_network():
    """LPIPS's network is remembered; these tests each need their own."""
    _lpips_network.cache_clear()
    yield
    _lpips_network.cache_clear()


def test_lpips_says_what_is_missing(monkeypatch, tmp_path, no_network):
    images = random_images((2, 16, 16))
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"pip install 'xwam\[lpips\]'"):
        lpips(images, images)
    assert "pip install" in lpips_missing()
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="alexnet"):
        lpips(images, images)
    assert "copy the file to that path" in lpips_missing()


def lpips_by_hand(features, x, y, heads):
    """Equation 1 of the paper: unit features of five layers, weighted squared difference, mean over the picture."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]  # the package's colour statistics, on [-1, 1]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    x, y = ((torch.from_numpy(v).movedim(-1, 1).float() / 127.5 - 1 - shift) / scale for v in (x, y))
    total, layer = 0, 0
    for index, module in enumerate(features):
        x, y = module(x), module(y)
        if index in (1, 4, 7, 9, 11):  # after each ReLU
            a, b = (v / (v.square().sum(1, keepdim=True).sqrt() + 1e-10) for v in (x, y))
            weight = heads[f"lin{layer}.model.1.weight"]
            total, layer = total + ((a - b) ** 2 * weight).sum(1).mean((1, 2)), layer + 1
    return total.numpy()


def test_lpips_is_the_papers_formula(monkeypatch, tmp_path, no_network):
    """The real package and its real heads; AlexNet's own weights are drawn, because nothing may be downloaded here."""
    package = pytest.importorskip("lpips", reason="pip install 'xwam[lpips]'")
    torchvision = pytest.importorskip("torchvision", reason="pip install 'xwam[lpips]'")
    torch.manual_seed(0)
    alexnet = torchvision.models.alexnet().eval()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(alexnet.state_dict(), tmp_path / "hub" / "checkpoints" / ALEXNET_FILE)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    images, references = random_images((10, 64, 80)), random_images((10, 64, 80), seed=1)
    heads = torch.load(Path(package.__file__).parent / "weights" / "v0.1" / "alex.pth", "cpu", weights_only=True)
    with torch.no_grad():
        expected = lpips_by_hand(alexnet.features, images, references, heads)
    np.testing.assert_allclose(lpips(images, references), expected, rtol=1e-4)
    assert lpips_missing() is None
    assert (lpips(images, images) == 0).all()


# --- depth


def test_depth_scores_by_hand():
    reference = np.array([1.0, 2.0, 4.0, 1.0, 0.0, 2.0])
    depth = np.array([1.1, 2.0, 2.0, 1.4, 3.0, 0.0])  # the last two: unknown in one of them
    scores = depth_scores(depth, reference)
    assert scores.abs_rel == pytest.approx((0.1 + 0 + 0.5 + 0.4) / 4)
    assert scores.rmse_m == pytest.approx(np.sqrt((0.01 + 0 + 4 + 0.16) / 4))
    assert scores.delta1 == 0.5  # ratios 1.1, 1, 2, 1.4 against 1.25, 1.5625, 1.953
    assert scores.delta2 == scores.delta3 == 0.75
    assert scores.coverage == 0.8


def test_scale_alignment_forgives_the_scale_only():
    reference = np.random.default_rng(0).uniform(0.5, 2, (4, 5))
    depth = 0.6 * reference
    depth[0, 0] = 0
    scale = aligning_scale(depth, reference)
    assert scale == pytest.approx(1 / 0.6)
    assert depth_scores(depth, reference).abs_rel == pytest.approx(0.4)
    assert depth_scores(scale * depth, reference).abs_rel == pytest.approx(0, abs=1e-12)


def test_nothing_known_is_no_number():
    scores = depth_scores(np.zeros((2, 2)), np.ones((2, 2)))
    assert np.isnan(scores.abs_rel)
    assert scores.coverage == 0
    assert np.isnan(depth_scores(np.ones((2, 2)), np.zeros((2, 2))).coverage), "a view that was never measured"
    assert np.isnan(aligning_scale(np.zeros((2, 2)), np.ones((2, 2))))


# --- actions, success


def test_action_scores_by_hand():
    layout = two_arm_layout("test", single_arm=True)
    reference = np.zeros((2, 14), dtype=np.float32)
    action = reference.copy()
    action[0, :3] = [0.03, 0.04, 0]  # 5 cm in step 0, nothing in step 1
    action[:, 5] = 0.2
    action[1, 6] = -1
    action[:, 7:] = 9  # the unused arm never counts
    scores = action_scores(action, reference, layout)
    assert scores.position_m == pytest.approx(0.025)
    assert scores.rotation_rad == pytest.approx(0.2)
    assert scores.gripper == pytest.approx(0.5)
    raw = two_arm_layout("raw", single_arm=True, raw_gripper=True)
    commands = action_scores(action, reference, raw)
    assert commands[:2] == (None, None), "a controller's own commands are no metres and radians"
    assert commands.command == pytest.approx((0.025 + 0.2) / 2)
    assert scores.command is None
    assert commands.gripper == pytest.approx(0.5)
    joints = load_robot(ROBOTS / "aloha.json")
    arms = layout_of(joints)
    action = np.zeros((2, arms.action_width), dtype=np.float32)
    action[0, arms.action_slice("left_joints")] = 0.1
    found = action_scores(action, 0 * action, arms)
    width = arms.action_slice("left_joints").stop - arms.action_slice("left_joints").start
    assert found.joints_rad == pytest.approx(0.1 * np.sqrt(width) / 4), "mean over two steps and two arms"
    assert (found.position_m, found.rotation_rad, scores.joints_rad) == (None, None, None)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (5, 10, 0.236593, 0.763407),  # (0.5 +- 1.96 sqrt(0.025 + 0.0096036)) / 1.384146, around one half
        (0, 10, 0.0, 0.277533),  # z^2 / (n + z^2) = 3.841459 / 13.841459
        (10, 10, 0.722467, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_by_hand(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-6)


def test_doors_refuse():
    with pytest.raises(ValueError, match="successes=3, trials=2"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match="confidence=95"):
        wilson_interval(1, 2, confidence=95.0)
    with pytest.raises(ValueError, match="to the same first"):
        check_same_shape(random_images((8, 8)), random_images((8, 9)))
