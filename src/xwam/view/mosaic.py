"""One small video with everything: rows are real and imagined colour and depth, columns are the views.

Depth colours: near is yellow, far is violet (``xwam.colours``), each view on a scale of its own, the same for real
and imagined; the bar under each column says how many metres.
"""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from xwam.colours import IMAGINED_RGB, REAL_RGB, depth_range, depth_to_colours
from xwam.data.videos import write_rgb
from xwam.files import whole_file
from xwam.images import pillow
from xwam.records import Prediction
from xwam.view.points import pictures_of

TILE_PX = 256  # height of one picture
GAP_PX = 6
LEFT_PX, TOP_PX, BOTTOM_PX = 34, 66, 40  # room for names and scales
ENDS_PX = 60  # of a scale, left and right: how many metres
NARROWEST_PX = 2 * ENDS_PX + 40  # a column; narrower pictures have white beside them
TEXT_RGB, FAINT_RGB = (30, 30, 30), (110, 110, 110)


def write_mosaic(path: Path, prediction: Prediction, *, real: Prediction | None = None) -> None:
    """Write the mosaic as mp4, at the imagined video's own speed. Where the real video ends, its tiles are empty."""
    if path.suffix != ".mp4":
        raise ValueError(f"path={path}: the file's name must end in .mp4.")
    with whole_file(path) as temporary:
        write_rgb(
            temporary, mosaic_frames(prediction, real=real), Fraction(prediction.frame_hz).limit_denominator(1000)
        )


def mosaic_frames(prediction: Prediction, *, real: Prediction | None = None) -> UInt8[np.ndarray, "T height width 3"]:
    """The frames of the mosaic; depth only where there is some.

    Raises ValueError without a world, ImportError without the ``view`` extra.
    """
    worlds = [] if real is None else [("real", REAL_RGB, real)]
    worlds += [("imagined", IMAGINED_RGB, prediction)]
    seen = [(name, colour, pictures_of(known), known.depth) for name, colour, known in worlds]
    deep = [(name, colour, depth) for name, colour, _, depth in seen if depth is not None]
    ranges = [depth_range(view) for view in deep[0][2]] if deep else []
    rows = [(name, colour, video) for name, colour, video, _ in seen]
    rows += [(f"{name} depth", colour, _coloured(depth, ranges)) for name, colour, depth in deep]
    rows = [(name, colour, _broadened(pictures)) for name, colour, pictures in rows]
    video = _broadened(pictures_of(prediction))
    width = round(TILE_PX * video.shape[3] / video.shape[2])
    still = _frame_of_names(prediction, [(name, colour) for name, colour, _ in rows], ranges, width)
    return np.stack([_filled(still, rows, step, width, prediction.frame_hz) for step in range(video.shape[1])])


def _coloured(
    depth_m: Float[np.ndarray, "V T H W"], ranges: list[tuple[float, float]]
) -> UInt8[np.ndarray, "V T H W 3"]:
    return np.stack([depth_to_colours(view, *span) for view, span in zip(depth_m, ranges, strict=True)])


def _broadened(pictures: UInt8[np.ndarray, "V T H W 3"]) -> UInt8[np.ndarray, "V T H wider 3"]:
    """As wide as a column must be: white on both sides of narrow pictures."""
    height, width = pictures.shape[2:4]
    room = max(0, math.ceil(height * NARROWEST_PX / TILE_PX) - width)
    return np.pad(pictures, [(0, 0)] * 3 + [(room // 2, room - room // 2), (0, 0)], constant_values=255)


def _frame_of_names(
    prediction: Prediction, rows: list[tuple[str, tuple[int, int, int]]], ranges: list[tuple[float, float]], width: int
) -> Any:
    """Everything that stands still: instruction, names of rows and columns, scales of depth."""
    Image, ImageDraw, font = _pillow()
    num_views = len(prediction.cameras)
    size = (LEFT_PX + num_views * (width + GAP_PX), TOP_PX + len(rows) * (TILE_PX + GAP_PX) + BOTTOM_PX)
    still = Image.new("RGB", tuple(n + n % 2 for n in size), "white")
    draw = ImageDraw.Draw(still)
    room = size[0] - LEFT_PX - draw.textlength("in 10.0 s", font(20)) - 2 * GAP_PX
    draw.text((LEFT_PX, 8), _shortened(prediction.instruction, room, draw, font(20)), TEXT_RGB, font(20))
    for view, camera in enumerate(prediction.cameras):
        left = LEFT_PX + view * (width + GAP_PX)
        draw.text((left + width / 2, TOP_PX - 14), camera.name, TEXT_RGB, font(16), anchor="mm")
        if not ranges:
            continue
        near, far = ranges[view]
        scale = 1 / np.linspace(1 / near, 1 / far, width - 2 * ENDS_PX)
        bar = np.repeat(depth_to_colours(scale, near, far)[None], 12, axis=0)
        below = size[1] - BOTTOM_PX + 12
        still.paste(Image.fromarray(bar), (left + ENDS_PX, below))
        draw.text((left + ENDS_PX - 6, below + 6), f"{near:.2f} m", TEXT_RGB, font(14), anchor="rm")
        draw.text((left + width - ENDS_PX + 6, below + 6), f"{far:.2f} m", TEXT_RGB, font(14), anchor="lm")
    for row, (name, colour) in enumerate(rows):
        words = Image.new("RGB", (TILE_PX, LEFT_PX), "white")
        ImageDraw.Draw(words).text((TILE_PX / 2, LEFT_PX / 2), name, colour, font(17), anchor="mm")
        still.paste(words.rotate(90, expand=True), (0, TOP_PX + row * (TILE_PX + GAP_PX)))
    return still


def _shortened(words: str, room_px: float, draw: Any, font: Any) -> str:
    """As much of a line as there is room for, beside a single camera say."""
    words = " ".join(words.split())
    if draw.textlength(words, font) <= room_px:
        return words
    while words and draw.textlength(f"{words.rstrip()}…", font) > room_px:
        words = words[:-1]
    return f"{words.rstrip()}…"


def _filled(still: Any, rows: list, step: int, width: int, frame_hz: float) -> UInt8[np.ndarray, "height width 3"]:
    """One frame: the pictures of one step, and its time."""
    Image, ImageDraw, font = _pillow()
    frame = still.copy()
    when = "now" if step == 0 else f"in {step / frame_hz:.1f} s"
    ImageDraw.Draw(frame).text((frame.width - GAP_PX, 8), when, TEXT_RGB, font(20), anchor="ra")
    for row, (_, _, pictures) in enumerate(rows):
        for view in range(len(pictures)):
            place = (LEFT_PX + view * (width + GAP_PX), TOP_PX + row * (TILE_PX + GAP_PX))
            if step >= pictures.shape[1]:
                middle = (place[0] + width / 2, place[1] + TILE_PX / 2)
                ImageDraw.Draw(frame).text(middle, "not recorded", FAINT_RGB, font(16), anchor="mm")
                continue
            picture = Image.fromarray(pictures[view, step])
            how = Image.Resampling.NEAREST if picture.height <= TILE_PX else Image.Resampling.BOX
            frame.paste(picture.resize((width, TILE_PX), how), place)
    return np.asarray(frame)


def _pillow() -> tuple[Any, Any, Any]:
    Image = pillow("the mosaic needs Pillow: pip install 'xwam[view]'")
    from PIL import ImageDraw, ImageFont

    return Image, ImageDraw, ImageFont.load_default
