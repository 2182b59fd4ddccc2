"""Colours with a meaning, the same on every page and in every video; readable with any kind of colour vision.

Depth is drawn with viridis, whose brightness rises evenly, so near and far can be told apart in grey as well. Real
and imagined are blue and vermilion of Okabe and Ito's palette.
"""

import numpy as np
from jaxtyping import Float, UInt8

REAL_RGB = (0, 114, 178)
IMAGINED_RGB = (213, 94, 0)
UNKNOWN_RGB = (225, 225, 225)  # depth that nobody measured: no colour of the map


def depth_to_colours(depth_m: Float[np.ndarray, "*any"], near_m: float, far_m: float) -> UInt8[np.ndarray, "*any 3"]:
    """Metres to RGB, linear in inverse depth: near is yellow, far is violet, unknown (0) is light grey."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("pictures of depth need matplotlib: pip install 'xwam[view]'") from error
    known = depth_m > 0
    inverse = 1 / np.clip(np.where(known, depth_m, far_m), near_m, far_m)
    share = (inverse - 1 / far_m) / (1 / near_m - 1 / far_m)
    colours = matplotlib.colormaps["viridis"](share, bytes=True)[..., :3]
    return np.where(known[..., None], colours, np.array(UNKNOWN_RGB, dtype=np.uint8))


def depth_range(depth_m: Float[np.ndarray, "*any"]) -> tuple[float, float]:
    """Near and far distance that show a depth map well: its 1 % and 99 % quantiles; (0.1, 10) if nothing is known."""
    known = depth_m[depth_m > 0]
    if not len(known):
        return 0.1, 10.0
    near, far = (float(q) for q in np.quantile(known, [0.01, 0.99]))
    return near, max(far, near * 1.01)


def css(rgb: tuple[int, int, int]) -> str:
    """A colour as a page writes it."""
    return "#" + "".join(f"{channel:02x}" for channel in rgb)
