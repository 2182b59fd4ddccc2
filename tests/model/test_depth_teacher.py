"""The depth teacher runs transformers' real code on small random weights, from a folder as one downloads it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessorPil,
    ViTConfig,
)

from xwam.model.depth_teacher import Alignment, MonocularDepth, fit_alignment, to_metres

pytest.importorskip("PIL", reason="pip install 'xwam[view]'")


def save_tiny_model(folder, kind):
    """DepthAnything with a few thousand random weights."""
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
        initializer_range=0.5,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone.to_dict(),
        reassemble_hidden_size=16,
        reassemble_factors=[1, 0.5],
        neck_hidden_sizes=[8, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=4 if kind == "metric" else 1,
        initializer_range=0.5,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    size = {"height": 42, "width": 42}
    DPTImageProcessorPil(size=size, ensure_multiple_of=14, keep_aspect_ratio=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save_tiny_model(tmp_path_factory.mktemp(kind), kind) for kind in ("metric", "relative")}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (9, 40, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["metric", "relative"])
def test_answers_have_the_images_size_and_do_not_depend_on_the_batch(folders, images, kind):
    teacher = MonocularDepth(folders[kind])
    assert (teacher.kind, kind in teacher.name) == (kind, True)
    estimate = teacher.estimate(images)
    assert estimate.shape == (9, 40, 48)
    assert estimate.dtype == np.float32
    assert np.isfinite(estimate).all()
    assert estimate.std() > 1e-3, "the picture must matter"
    np.testing.assert_allclose(teacher.estimate(images[8:])[0], estimate[8], atol=1e-5)
    assert teacher.estimate(images[:0]).shape == (0, 40, 48)


def test_the_adapter_adds_nothing_to_the_models_own_answer(folders, images):
    """By hand: the processor's documented arithmetic, the model, and back to the image's size."""
    model = DepthAnythingForDepthEstimation.from_pretrained(folders["metric"]).eval()
    square = np.random.default_rng(1).integers(0, 256, (42, 42, 3), dtype=np.uint8)  # no resizing on either side
    with torch.no_grad():
        pixels = torch.from_numpy(square).movedim(-1, 0).float() / 255 * 2 - 1  # mean 0.5, std 0.5
        expected = model(pixels[None]).predicted_depth[0].numpy()
    np.testing.assert_allclose(MonocularDepth(folders["metric"]).estimate(square[None])[0], expected, atol=1e-4)


def test_a_metric_estimate_gets_its_scale_back():
    measured = np.random.default_rng(0).uniform(0.4, 2.0, (5, 6)).astype(np.float32)
    measured[0, :3] = 0
    found = fit_alignment(3 * measured, measured, "metric")
    assert found == pytest.approx(Alignment(1 / 3, 0.0, 0.0, 27), abs=1e-6)
    metres = to_metres(3 * measured, "metric", found, far_m=5.0)
    np.testing.assert_allclose(metres[1:], measured[1:], rtol=1e-6)
    np.testing.assert_allclose(metres[0, :3], 5.0)


def test_a_relative_estimate_gets_scale_and_shift_back():
    measured = np.random.default_rng(0).uniform(0.4, 2.0, (5, 6))
    measured[0, :3] = 0
    estimate = np.where(measured > 0, (1 / np.maximum(measured, 0.1) - 0.2) / 0.05, 99.0)
    found = fit_alignment(estimate, measured, "relative")
    assert found == pytest.approx(Alignment(0.05, 0.2, 0.0, 27), abs=1e-6)
    np.testing.assert_allclose(to_metres(estimate, "relative", found, far_m=5.0)[1:], measured[1:], rtol=1e-5)


def test_a_noisy_relative_fit_is_the_least_squares_one():
    rng = np.random.default_rng(0)
    estimate, measured = rng.uniform(0, 10, 200), rng.uniform(0.5, 3, 200)
    found = fit_alignment(estimate, measured, "relative")
    expected, *_ = np.linalg.lstsq(np.stack([estimate, np.ones(200)], 1), 1 / measured, rcond=None)
    assert (found.scale, found.shift) == pytest.approx(tuple(expected))


def test_what_has_no_distance_lies_far_away():
    estimate = np.array([-3.0, 0.0, 1.0, 100.0])
    assert to_metres(estimate, "relative", Alignment(), far_m=4.0).tolist() == pytest.approx([4, 4, 1, 0.01])
    assert to_metres(estimate, "metric", Alignment(), far_m=4.0).tolist() == [4, 4, 1, 4]


def test_missing_or_wrong_folders_are_named(tmp_path, folders):
    with pytest.raises(FileNotFoundError, match="hf download"):
        MonocularDepth(tmp_path)
    ViTConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="model_type='vit', which does not answer depth: allowed: depth_anything"):
        MonocularDepth(tmp_path)


def test_lacking_weights_are_refused_and_never_drawn_at_random(tmp_path, folders):
    for path in folders["metric"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "head.conv3" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"lack head\.conv3"):
        MonocularDepth(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "depth_anything"


def test_too_little_measured_depth_is_refused():
    with pytest.raises(ValueError, match="1 measured pixels"):
        fit_alignment(np.array([1.0, 2.0]), np.array([0.0, 2.0]), "metric")
    with pytest.raises(ValueError, match="1 different estimates"):
        fit_alignment(np.ones(3), np.array([1.0, 2.0, 3.0]), "relative")
