"""Resizing equals torch's, and cropping takes the right pixels."""

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from xwam.images import (
    centre_window,
    crop_size,
    cropped_camera,
    cut,
    encoded,
    pillow,
    resize,
    resize_and_centre_crop,
    resize_corners,
    resize_nearest,
)
from xwam.presets import preset
from xwam.records import Camera
from xwam.view.points import unproject


@pytest.mark.parametrize("size", [(5, 9), (64, 31), (20, 24), (40, 48), (1, 1)])
def test_equal_to_torch(size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).random((2, 20, 24, 3)).astype(np.float32)
    channels_first = torch.from_numpy(images).movedim(-1, 1)

    def torch_resize(mode: str, **options: bool) -> np.ndarray:
        return torch.nn.functional.interpolate(channels_first, size, mode=mode, **options).movedim(1, -1).numpy()

    np.testing.assert_allclose(resize(images, *size), torch_resize("bilinear", align_corners=False), atol=1e-5)
    smooth = torch_resize("bilinear", align_corners=False, antialias=True)
    np.testing.assert_allclose(resize(images, *size, antialias=True), smooth, atol=1e-5)
    np.testing.assert_array_equal(resize_nearest(images[..., 0], *size), torch_resize("nearest-exact")[..., 0])
    np.testing.assert_array_equal(resize_corners(images[..., 0], *size), torch_resize("nearest")[..., 0])


def test_windows() -> None:
    image = np.arange(6 * 8 * 3).reshape(6, 8, 3)
    window = centre_window(6, 8, 0.5)
    assert window == (1, 2, 3, 4)
    np.testing.assert_array_equal(cut(image, window, axis=-3), image[1:4, 2:6])
    np.testing.assert_array_equal(cut(image[..., 0], window), image[1:4, 2:6, 0])
    with pytest.raises(ValueError, match=r"crop=1\.2"):
        crop_size(6, 8, 1.2)


def test_a_flat_image_stays_flat() -> None:
    image = np.full((50, 70, 3), 77, np.uint8)
    for antialias in (False, True):
        clip = replace(preset("debug").clip, width_px=48, height_px=32, crop=0.9, antialias=antialias)
        assert (resize_and_centre_crop(image, clip) == 77).all()
        assert resize_and_centre_crop(image, clip).shape == (32, 48, 3)


def test_a_thin_line_is_seen_when_the_picture_becomes_smaller() -> None:
    """A line of two pixels in a camera's picture: two pixels of every five would miss it."""
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, 340:342] = 255
    tiny, published = preset("tiny").clip, replace(preset("wan22_5b").clip, width_px=128, height_px=128)
    assert resize_and_centre_crop(image, tiny).max() > 50
    assert resize_and_centre_crop(image, published).max() == 0, "as the published model was trained"


def plane(size: int) -> tuple[Camera, np.ndarray]:
    """A camera before the slanted plane z = 1 + 0.4 x + 0.3 y, and its exact depth."""
    focal, middle = 1.5 * size, size / 2
    camera = Camera(
        name="left", width=size, height=size, intrinsics=np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]])
    )
    column, row = np.meshgrid(*(2 * [(np.arange(size) + 0.5 - middle) / focal]))
    return camera, 1 / (1 - 0.4 * column - 0.3 * row)


def off_plane(camera: Camera, depth: np.ndarray) -> float:
    points = unproject(depth, camera.intrinsics, camera.depth_at)
    return abs(float((points[..., 2] - 1 - 0.4 * points[..., 0] - 0.3 * points[..., 1]).mean()))


@pytest.mark.parametrize("crop", [1.0, 0.95])
@pytest.mark.parametrize(("size", "wanted"), [(256, 128), (512, 128), (480, 128), (384, 128), (240, 160), (96, 128)])
def test_a_plane_stays_where_it_is_when_its_depth_is_resized(size: int, wanted: int, crop: float) -> None:
    camera, depth = plane(size)
    small, depth = camera.resized(wanted, wanted), resize_nearest(depth, wanted, wanted)
    window = centre_window(wanted, wanted, crop)
    seen = cropped_camera(small, window)
    assert off_plane(seen, resize_corners(cut(depth, window), wanted, wanted)) < 3e-5
    assert off_plane(camera.resized(wanted, wanted).resized(wanted, wanted), depth) < 3e-5, "the same size: the same"


def test_where_depth_is_taken() -> None:
    camera = Camera(name="left", width=640, height=480)
    assert camera.resized(320, 240).depth_at == 0.75
    assert camera.resized(160, 120).depth_at == 0.625
    assert camera.resized(128, 96).depth_at == 0.5, "the middle one of five"
    assert camera.resized(320, 160).depth_at == 0.625, "halved columns, thirds of rows: their mean"
    assert camera.resized(320, 240).resized(160, 120).depth_at == 0.875, "the last of four"


def test_a_picture_is_encoded_exactly_or_says_what_is_missing(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    png = encoded(image, "PNG", missing="")
    np.testing.assert_array_equal(np.asarray(pillow("").open(io.BytesIO(png))), image)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="the report needs Pillow"):
        encoded(image, "PNG", missing="the report needs Pillow")
