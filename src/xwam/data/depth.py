"""Metres <-> the 12-bit codes of depth videos (LeRobot's logarithmic coding).

``code = rint(4095 (ln(d + shift) - ln(min + shift)) / (ln(max + shift) - ln(min + shift)))``. Fine near the camera,
coarser far away: at most 0.6 mm of error near by, 2.3 mm at 10 m. The lowest and highest code mean "not known here".
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt16

LARGEST_CODE = 4095


class DepthCoding(NamedTuple):
    """The numbers of the coding (metres); they stand in the data set's ``info.json``."""

    min_m: float = 0.01
    max_m: float = 10.0
    shift_m: float = 3.5
    use_log: bool = True  # False: codes are linear in depth


def depth_to_codes(depth_m: Float32[np.ndarray, "*any"], coding: DepthCoding) -> UInt16[np.ndarray, "*any"]:
    """Metres to codes 0..4095; 0 m (unknown) and anything beyond the range get the end codes."""
    low, high = _curve(np.array([coding.min_m, coding.max_m]), coding)
    share = (_curve(np.clip(depth_m, coding.min_m, coding.max_m), coding) - low) / (high - low)
    return np.rint(share * LARGEST_CODE).astype(np.uint16)


def codes_to_depth(codes: UInt16[np.ndarray, "*any"], coding: DepthCoding) -> Float32[np.ndarray, "*any"]:
    """The inverse of depth_to_codes, in metres; 0 (unknown) at the two end codes."""
    low, high = _curve(np.array([coding.min_m, coding.max_m]), coding)
    table = low + np.arange(LARGEST_CODE + 1) / LARGEST_CODE * (high - low)
    if coding.use_log:
        table = np.exp(table) - coding.shift_m
    table[[0, LARGEST_CODE]] = 0.0
    return table.astype(np.float32)[codes]


def _curve(depth_m: np.ndarray, coding: DepthCoding) -> np.ndarray:
    return np.log(depth_m + coding.shift_m) if coding.use_log else depth_m
