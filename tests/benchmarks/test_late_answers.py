"""What a late answer costs, from commands that are written down by hand."""

import numpy as np
import pytest

from benchmarks.late_answers import borders, summarize


def episode(velocity, firsts=(), held=(), success=False) -> dict:
    """Commands along x, in m/s; which of them are the first of an answer, and which stand still."""
    steps = range(len(velocity))
    return {
        "success": success,
        "velocity": [[speed, 0.0, 0.0] for speed in velocity],
        "is_first": [step in firsts for step in steps],
        "is_held": [step in held for step in steps],
    }


def test_borders_are_new_answers_stops_and_starts():
    assert borders(episode([0.0] * 8, firsts=(0, 3), held=(5, 6))).tolist() == [3, 5, 7]
    assert borders(episode([0.0] * 3, firsts=(0,), held=(0, 1, 2))).tolist() == [], "the very first is none"


def test_jumps_are_counted_where_they_are():
    solved = episode([0.0, 0.1, 0.5, 0.6], firsts=(0, 2), success=True)  # 0.1, then 0.4 at the border, 0.1
    stopped = episode([0.4, 0.6, 0.0, 0.0], firsts=(0,), held=(2, 3))  # 0.2, then 0.6 at the border, 0
    found = summarize([solved, stopped])
    assert (found["episodes"], found["success"]) == (2, 0.5)
    assert 0 < found["low"] < 0.5 < found["high"] < 1
    assert found["jump_mean"] == pytest.approx(0.5)
    assert found["jump_max"] == pytest.approx(0.6)
    assert found["elsewhere_mean"] == pytest.approx((0.1 + 0.1 + 0.2 + 0) / 4)
    assert found["standing_still"] == 2 / 8
    assert found["seconds_to_success"] == 4 / 20, "of the episode that was a success, at 20 Hz"
    assert np.isnan(summarize([stopped])["seconds_to_success"])
