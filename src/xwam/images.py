"""Resizing and cropping of images, the same for training and for the policy. numpy only; to encode them, Pillow.

Coordinates follow records.py: the centre of pixel ``i`` is ``i + 0.5``, so an image resized from ``n`` to ``m`` samples
the position ``(i + 0.5) n / m``. Intrinsics of ``Camera.resized`` and ``Camera.cropped`` are exact for these functions.
Depth is never interpolated: each new pixel copies one old pixel, whose centre is not exactly the new one's.
``Camera.depth_at`` is where in the new pixel that depth belongs, on average (over the picture, rows and columns):
``Camera.resized`` for ``resize_nearest``, ``cropped_camera`` for ``resize_corners``.
"""

import io
import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from xwam.config import ClipConfig
from xwam.records import Camera

GREY = 128  # every pixel of a picture that stands for a camera that is not there


class Window(NamedTuple):
    """A part of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_size(height: int, width: int, crop: float) -> tuple[int, int]:
    """Height and width of a crop that keeps this share of each side (rounded down)."""
    if not 0 < crop <= 1:
        raise ValueError(f"crop={crop}: must be above 0 and at most 1 (the share of each side that is kept).")
    return max(1, int(height * crop)), max(1, int(width * crop))


def centre_window(height: int, width: int, crop: float) -> Window:
    """The window in the middle (half pixels go to the top left)."""
    rows, columns = crop_size(height, width, crop)
    return Window((height - rows) // 2, (width - columns) // 2, rows, columns)


def cropped_camera(camera: Camera, window: Window) -> Camera:
    """The camera after its image was cut to ``window`` and enlarged to its old size: depth by ``resize_corners``."""
    cropped = camera.cropped(window.left, window.top, window.width, window.height)
    if (window.width, window.height) == (camera.width, camera.height):
        return cropped
    sizes = ((window.width, camera.width), (window.height, camera.height))
    places = [_corner_at(camera.depth_at, old, new) for old, new in sizes]
    return replace(cropped.resized(camera.width, camera.height), depth_at=sum(places) / 2)


def _corner_at(depth_at: float, size: int, wanted: int) -> float:
    """Where in a new pixel the depth lies that ``resize_corners`` took for it, on average."""
    return math.gcd(size, wanted) / (2 * size) + (depth_at - 0.5) * wanted / size


def cut(images: Shaped[np.ndarray, "*any"], window: Window, *, axis: int = -2) -> Shaped[np.ndarray, "*cut"]:
    """The window of an image whose rows lie along ``axis`` and columns along the next one."""
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    after = images.ndim - 2 - axis % images.ndim
    return images[(..., rows, columns, *(slice(None),) * after)]


def resize(
    images: Shaped[np.ndarray, "*T H W C"], height: int, width: int, *, antialias: bool = False
) -> Float32[np.ndarray, "*T h w C"]:
    """Bilinear. ``antialias``: what becomes smaller is averaged, so that every pixel counts (as torch and Pillow do).

    Without, a pixel is made of the two nearest to its centre, and what lies between is never seen: as the published
    model was trained.
    """
    resized = images.astype(np.float32)
    for axis, size in ((-3, height), (-2, width)):
        old = resized.shape[axis]
        if antialias and size < old:
            resized = _shrink_axis(resized, axis, size)
        elif size != old:
            resized = _resize_axis(resized, axis, size)
    return resized


def resize_nearest(images: Shaped[np.ndarray, "*T H W"], height: int, width: int) -> Shaped[np.ndarray, "*T h w"]:
    """Take the pixel under each new centre: depth must not be mixed across edges.

    Between two pixels it is the later one, so that half as many show what is at i + 0.75: see Camera.resized.
    """
    rows = (2 * np.arange(height) + 1) * images.shape[-2] // (2 * height)
    columns = (2 * np.arange(width) + 1) * images.shape[-1] // (2 * width)
    return images[..., rows[:, None], columns]


def resize_corners(images: Shaped[np.ndarray, "*T H W"], height: int, width: int) -> Shaped[np.ndarray, "*T h w"]:
    """Take the pixel under each new top left corner: what the published model's random crop did to depth.

    Enlarged, pixel i then shows what is near i (on average), not at i + 0.5: see cropped_camera.
    """
    rows = np.arange(height) * images.shape[-2] // height
    columns = np.arange(width) * images.shape[-1] // width
    return images[..., rows[:, None], columns]


def to_bytes(images: Float32[np.ndarray, "*any"]) -> UInt8[np.ndarray, "*any"]:
    """Round to 0..255."""
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def resize_and_centre_crop(image: UInt8[np.ndarray, "*T H W 3"], clip: ClipConfig) -> UInt8[np.ndarray, "*T h w 3"]:
    """What the policy does to each image: bilinear resize, centre crop, resize back to full size."""
    size = (clip.height_px, clip.width_px)
    window = centre_window(*size, clip.crop)
    return to_bytes(resize(cut(resize(image, *size, antialias=clip.antialias), window, axis=-3), *size))


def pillow(missing: str) -> Any:
    """Pillow's module ``Image``. Raises ImportError with ``missing``: what needs it, and how it is installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(missing) from error
    return Image


def encoded(image: UInt8[np.ndarray, "H W 3"], kind: str, *, missing: str, **options: Any) -> bytes:
    """A picture as the bytes of a file: ``kind`` and ``options`` are Pillow's. ``missing``: see ``pillow``."""
    file = io.BytesIO()
    pillow(missing).fromarray(image).save(file, kind, **options)
    return file.getvalue()


def _resize_axis(images: np.ndarray, axis: int, size: int) -> np.ndarray:
    old = images.shape[axis]
    position = np.clip((np.arange(size, dtype=np.float32) + 0.5) * np.float32(old / size) - 0.5, 0, None)
    low = np.minimum(position.astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    share = (position - low).astype(np.float32).reshape(-1, *(1,) * (-axis - 1))
    return images.take(low, axis) * (1 - share) + images.take(high, axis) * share


def _shrink_axis(images: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Weights fall in a line from a new pixel's centre to its neighbours' centres."""
    old = images.shape[axis]
    scale = old / size
    centre = (np.arange(size) + 0.5) * scale
    places = np.floor(centre - scale).astype(int)[:, None] + np.arange(math.ceil(2 * scale) + 1)
    weights = np.maximum(0, 1 - np.abs(places + 0.5 - centre[:, None]) / scale) * ((places >= 0) & (places < old))
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32).T.reshape(-1, size, *(1,) * (-axis - 1))
    shrunk = np.zeros_like(images.take(range(size), axis))
    for column, weight in zip(np.clip(places, 0, old - 1).T, weights, strict=True):
        shrunk += images.take(column, axis) * weight
    return shrunk
