"""Measuring: samples of one call, and the machine's own rate of matrix products right beside them.

On shared machines wall-clock times say little. So every sample also has its CPU seconds (all threads together), and
a stage's rate is set against the rate that plain matrix products reached in the same run, by the same clock.
"""

import resource
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from xwam.bench.operations import Shape

MATRIX_SECONDS = 0.05  # per sample of the matrix rate


class Sample(NamedTuple):
    """One call: wall-clock seconds, and seconds of work (CPU seconds on CPUs, wall-clock seconds on others)."""

    wall: float
    work: float


class Timing(NamedTuple):
    """All samples of one stage."""

    samples: tuple[Sample, ...]

    @property
    def wall(self) -> float:
        """Median wall-clock seconds."""
        return median(sample.wall for sample in self.samples)

    @property
    def work(self) -> float:
        """Median seconds of work."""
        return median(sample.work for sample in self.samples)

    def percentile(self, percent: int) -> float:
        """Wall-clock seconds that this percentage of the samples stayed below."""
        return float(np.percentile([sample.wall for sample in self.samples], percent))


def measure(
    function: Callable[[], Any], device: torch.device, *, repeats: int, max_seconds: float = float("inf")
) -> Timing:
    """Call ``function`` up to ``repeats`` times, at least once, and no longer than about ``max_seconds``."""
    samples: list[Sample] = []
    began = time.perf_counter()
    while len(samples) < repeats and (not samples or time.perf_counter() - began < max_seconds):
        samples.append(sample(function, device))
    return Timing(tuple(samples))


def sample(function: Callable[[], Any], device: torch.device) -> Sample:
    """One call, waited for."""
    _wait(device)
    wall, work = time.perf_counter(), time.process_time()
    function()
    _wait(device)
    wall, work = time.perf_counter() - wall, time.process_time() - work
    return Sample(wall, work if device.type == "cpu" else wall)


def matrix_rate(
    shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype, *, repeats: int = 5
) -> dict[Shape, float]:
    """Operations per second of work of ``x W^T + b`` in each of the shapes: the best of ``repeats`` samples."""
    rates = {}
    with torch.inference_mode():
        for shape in shapes:
            rows, inner, columns = shape
            x = torch.randn(rows, inner, device=device).to(dtype)
            weight, bias = (torch.randn(*size, device=device).to(dtype) for size in ((columns, inner), (columns,)))
            once = sample(lambda x=x, w=weight, b=bias: functional.linear(x, w, b), device).wall
            calls = max(1, min(1000, int(MATRIX_SECONDS / max(once, 1e-6))))

            def run(x: Any = x, w: Any = weight, b: Any = bias, calls: int = calls) -> None:
                for _ in range(calls):
                    functional.linear(x, w, b)

            best = min(sample(run, device).work for _ in range(repeats))
            rates[shape] = 2 * rows * inner * columns * calls / best
    return rates


def peak_memory(device: torch.device) -> int:
    """Bytes: the most this process has held on the device so far (on a CPU: its resident memory)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
