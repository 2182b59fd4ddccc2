"""Resizing equals torch's, and cropping takes the right pixels."""

import numpy as np
import pytest
import torch

from xwam.images import centre_window, crop_size, cut, resize, resize_and_centre_crop, resize_corners, resize_nearest


@pytest.mark.parametrize("size", [(5, 9), (64, 31), (20, 24), (40, 48), (1, 1)])
def test_equal_to_torch(size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).random((2, 20, 24, 3)).astype(np.float32)
    channels_first = torch.from_numpy(images).movedim(-1, 1)

    def torch_resize(mode: str, **options: bool) -> np.ndarray:
        return torch.nn.functional.interpolate(channels_first, size, mode=mode, **options).movedim(1, -1).numpy()

    np.testing.assert_allclose(resize(images, *size), torch_resize("bilinear", align_corners=False), atol=1e-5)
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
    image = np.full((10, 14, 3), 77, np.uint8)
    assert (resize_and_centre_crop(image, 8, 6, 0.9) == 77).all()
    assert resize_and_centre_crop(image, 8, 6, 0.9).shape == (6, 8, 3)
