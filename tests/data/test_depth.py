"""Depth on disk: fine near the camera, unknown stays unknown."""

import numpy as np
import pytest

from xwam.data.depth import DepthCoding, codes_to_depth, depth_to_codes


@pytest.mark.parametrize("coding", [DepthCoding(), DepthCoding(0.05, 20.0, 3.5), DepthCoding(use_log=False)])
def test_round_trip(coding: DepthCoding) -> None:
    depth = np.linspace(coding.min_m * 1.5, coding.max_m * 0.999, 5000, dtype=np.float32)
    codes = depth_to_codes(depth, coding)
    assert (np.diff(codes.astype(int)) >= 0).all()
    errors = np.abs(codes_to_depth(codes, coding) - depth)
    assert (errors < 4e-4 * (depth + coding.shift_m)).all()
    np.testing.assert_array_equal(depth_to_codes(codes_to_depth(codes, coding), coding), codes)


def test_unknown_and_far_away() -> None:
    codes = depth_to_codes(np.array([0, 0.005, 1, 100], np.float32), DepthCoding())
    assert codes[0] == codes[1] == 0
    assert codes[3] == 4095
    np.testing.assert_array_equal(codes_to_depth(codes, DepthCoding())[[0, 1, 3]], 0)


def test_the_numbers_of_lerobot() -> None:
    depth = np.array([0.3, 1.0, 5.0], np.float32)
    expected = np.rint(4095 * (np.log(depth + 3.5) - np.log(3.51)) / (np.log(13.5) - np.log(3.51)))
    np.testing.assert_array_equal(depth_to_codes(depth, DepthCoding()), expected)
