"""Random crops and colours for training clips; the centre crop that the policy sees.

One crop per view, the same over time and for depth (RGB bilinear, depth nearest, back to full size; intrinsics follow).
One change of colours for all views and frames. Drawing is apart from applying, so that a recorded draw can be replayed.
Brightness, contrast, saturation and hue are defined as in torchvision.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Shaped

from xwam.images import GREY, Window, centre_window, crop_size, cropped_camera, cut, resize, resize_corners, to_bytes
from xwam.records import Clip

LARGEST_FACTOR = 0.2  # brightness, contrast and saturation are scaled by 1 - this .. 1 + this
LARGEST_HUE = 0.05  # share of the colour circle
_GREY = np.array([0.2989, 0.587, 0.114], dtype=np.float32)


class Colours(NamedTuple):
    """A change of colours: three factors (1: none), a turn of the hue (share of the circle), and their order."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: tuple[int, ...] = (0, 1, 2, 3)  # 0 brightness, 1 contrast, 2 saturation, 3 hue


class Augmentation(NamedTuple):
    """All that is random: one window per view, one change of colours."""

    windows: tuple[Window, ...]
    colours: Colours


def draw_augmentation(
    num_views: int, height: int, width: int, crop: float, generator: np.random.Generator
) -> Augmentation:
    """Draw windows that keep ``crop`` of each side, and colours."""
    rows, columns = crop_size(height, width, crop)
    tops = generator.integers(0, height - rows + 1, num_views)
    lefts = generator.integers(0, width - columns + 1, num_views)
    windows = tuple(Window(int(t), int(le), rows, columns) for t, le in zip(tops, lefts, strict=True))
    factors = generator.uniform(1 - LARGEST_FACTOR, 1 + LARGEST_FACTOR, 3)
    hue = generator.uniform(-LARGEST_HUE, LARGEST_HUE)
    order = tuple(int(i) for i in generator.permutation(4))
    return Augmentation(windows, Colours(float(factors[0]), float(factors[1]), float(factors[2]), float(hue), order))


def augment(clip: Clip, generator: np.random.Generator, *, crop: float) -> Clip:
    """A randomly cropped and coloured copy of a clip, of the same size."""
    height, width = clip.video.shape[2:4]
    drawn = draw_augmentation(len(clip.video), height, width, crop, generator)
    return _cropped(clip, drawn.windows, drawn.colours)


def centre_crop(clip: Clip, *, crop: float) -> Clip:
    """The middle of every view, as the policy sees it; the size stays."""
    height, width = clip.video.shape[2:4]
    return _cropped(clip, (centre_window(height, width, crop),) * len(clip.video), None)


def crop_images(
    images: Shaped[np.ndarray, "V T H W 3"], windows: tuple[Window, ...]
) -> Float32[np.ndarray, "V T H W 3"]:
    """Cut a window out of each view and resize it back (bilinear)."""
    height, width = images.shape[2:4]
    return np.stack(
        [resize(cut(view, window, axis=-3), height, width) for view, window in zip(images, windows, strict=True)]
    )


def crop_depth(depth_m: Float[np.ndarray, "V T H W"], windows: tuple[Window, ...]) -> Float[np.ndarray, "V T H W"]:
    """Cut a window out of each view and resize it back (nearest, by corners)."""
    height, width = depth_m.shape[2:]
    return np.stack(
        [resize_corners(cut(view, window), height, width) for view, window in zip(depth_m, windows, strict=True)]
    )


def change_colours(images: Float32[np.ndarray, "*T H W 3"], colours: Colours) -> Float32[np.ndarray, "*T H W 3"]:
    """Apply the four changes in their order; images in [0, 1]. Contrast turns about the mean grey of each image."""
    for which in colours.order:
        if which == 0:
            images = np.clip(images * np.float32(colours.brightness), 0, 1)
        elif which == 1:
            images = _blend(images, _grey(images).mean(axis=(-3, -2, -1), keepdims=True), colours.contrast)
        elif which == 2:
            images = _blend(images, _grey(images), colours.saturation)
        elif colours.hue != 0:
            images = _turn_hue(images, colours.hue)
    return images


def _cropped(clip: Clip, windows: tuple[Window, ...], colours: Colours | None) -> Clip:
    images = crop_images(clip.video, windows) if colours is None else _coloured(clip, windows, colours)
    images[~clip.video_mask.any(axis=1)] = GREY  # a camera that is not there looks the same everywhere
    return replace(
        clip,
        video=to_bytes(images),
        depth=None if clip.depth is None else crop_depth(clip.depth, windows),
        cameras=tuple(cropped_camera(camera, window) for camera, window in zip(clip.cameras, windows, strict=True)),
    )


def _coloured(clip: Clip, windows: tuple[Window, ...], colours: Colours) -> np.ndarray:
    return change_colours(crop_images(clip.video, windows) / np.float32(255), colours) * np.float32(255)


def _grey(images: np.ndarray) -> np.ndarray:
    return (images @ _GREY)[..., None]


def _blend(images: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    return np.clip(np.float32(share) * images + np.float32(1 - share) * other, 0, 1)


def _turn_hue(images: np.ndarray, turn: float) -> np.ndarray:
    """Turn every colour on the circle, keeping its strength and brightness (hue, saturation, value)."""
    red, green, blue = (np.ascontiguousarray(images[..., channel]) for channel in range(3))
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    span = high - low
    safe = np.where(span == 0, np.float32(1), span)
    sixths = np.where(
        high == red,
        (green - blue) / safe,
        np.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = _on_circle(sixths / 6 + np.float32(turn))
    # each channel falls from `high` to `low` with its distance on the circle: full within 1/6, none beyond 1/3
    turned = np.empty_like(images)
    for channel, centre in enumerate((0, 1 / 3, 2 / 3)):
        distance = np.abs(_on_circle(hue - np.float32(centre - 0.5)) - np.float32(0.5))
        turned[..., channel] = high - span * np.clip(6 * distance - 1, 0, 1)
    return turned


def _on_circle(hue: np.ndarray) -> np.ndarray:
    """Between 0 and 1; numpy's own remainder takes ten times as long."""
    return hue - np.floor(hue)
