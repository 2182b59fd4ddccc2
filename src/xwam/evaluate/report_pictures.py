"""Videos inside a page: every frame is a WebP picture of all views side by side, of which the page shows one.

Pictures need no video codec, open in every browser, and a slider can jump to any frame at once.
"""

import base64

import numpy as np
from jaxtyping import UInt8

from xwam.images import encoded, pillow

MAX_HEIGHT_PX = 256  # of one frame
MISSING = "the report needs Pillow: pip install 'xwam[view]'"
GAP = 0.025  # white between views, as a share of a view's width


def strip(video: UInt8[np.ndarray, "V T H W 3"], label: str, *, quality: int = 82) -> str:
    """A ``.strip`` element with one picture per frame; the page's script chooses which one is seen."""
    num_views, num_frames, height, width = video.shape[:4]
    gap = max(1, round(GAP * width))
    spaced = np.pad(video, ((0, 0), (0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    frames = spaced.transpose(1, 2, 0, 3, 4).reshape(num_frames, height, num_views * (width + gap), 3)[:, :, :-gap]
    scale = min(1.0, MAX_HEIGHT_PX / height)
    pictures = [f'<img alt="" src="data:image/webp;base64,{_webp(frame, scale, quality)}">' for frame in frames]
    pictures[0] = pictures[0].replace("<img", '<img class="on"', 1)  # what is seen without the script
    return (
        f'<div class="strip" role="img" aria-label="{label}" style="aspect-ratio:{frames.shape[2]}/{height}">'
        f"{''.join(pictures)}</div>"
    )


def _webp(image: UInt8[np.ndarray, "H W 3"], scale: float, quality: int) -> str:
    if scale < 1:
        Image = pillow(MISSING)
        height, width = image.shape[:2]
        size = (round(width * scale), round(height * scale))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    return base64.b64encode(encoded(image, "WEBP", missing=MISSING, quality=quality, method=2)).decode("ascii")
