"""Numbers of a loaded server, from answers that are written down by hand."""

import pytest

from benchmarks.serve_load import Asked, summary


def test_latencies_in_milliseconds_and_answers_per_second_of_all_turns():
    """A hundred and one answers of 0, 1, .. 100 ms, in two turns of four and six seconds, half of them in pairs."""
    asked = Asked([n / 1000 for n in reversed(range(101))], [1, 2] * 50 + [1], [4.0, 6.0])
    assert summary(asked) == pytest.approx(
        {"answers": 101, "p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "per_s": 10.1, "batch": 151 / 101}
    )
