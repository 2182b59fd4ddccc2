"""A measurement as a table for people and as JSON for programs."""

import json
from typing import Any

from xwam.bench.operations import Operations
from xwam.bench.stages import Bench
from xwam.config import Config


def markdown(bench: Bench) -> str:
    """The table, and below it what surrounds the numbers."""
    lines = [
        f"| {bench.subject} | median | 5 % to 95 % | n | GFLOP | GFLOP/s | share of matrix rate |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for stage in bench.stages:
        timing, share = stage.timing, bench.share(stage)
        spread = f"{_ms(timing.percentile(5))} to {_ms(timing.percentile(95))}"
        rate = ("", "", "")
        if stage.operations is not None and share is not None:
            rate = (f"{stage.operations / 1e9:.1f}", f"{stage.operations / timing.work / 1e9:.1f}", f"{share:.0%}")
        lines.append(f"| {stage.name} | {_ms(timing.wall)} | {spread} | {len(timing.samples)} | {' | '.join(rate)} |")
    shape, rate = max(bench.matrix_rates.items(), key=lambda item: item[1])
    lines += [
        "",
        f"Matrix products in this run: {rate / 1e9:.1f} GFLOP/s ({' x '.join(map(str, shape))}, the best of "
        f"{len(bench.matrix_rates)} shapes that occur).",
        f"First request, nothing warm, text encoder included: {_ms(bench.first_request)}. "
        f"Peak memory: {bench.peak_memory / 1e9:.2f} GB.",
    ]
    if bench.warm_up is not None:
        lines.append(f"Warm-up: {bench.warm_up.num_programs} programs compiled in {bench.warm_up.seconds:.0f} s.")
    lines.append(", ".join(f"{name} {value}" for name, value in bench.facts.items()) + ".")
    return "\n".join(lines)


def to_json(bench: Bench) -> str:
    """Every sample and every count."""
    stages = [
        {
            "name": stage.name,
            "median_s": stage.timing.wall,
            "p5_s": stage.timing.percentile(5),
            "p95_s": stage.timing.percentile(95),
            "work_s": stage.timing.work,
            "samples": [list(sample) for sample in stage.timing.samples],
            "operations": stage.operations,
            "share_of_matrix_rate": bench.share(stage),
        }
        for stage in bench.stages
    ]
    whole: dict[str, Any] = {
        "subject": bench.subject,
        "stages": stages,
        "matrix_rates": {"x".join(map(str, shape)): rate for shape, rate in bench.matrix_rates.items()},
        "first_request_s": bench.first_request,
        "warm_up": None if bench.warm_up is None else bench.warm_up._asdict(),
        "peak_memory_bytes": bench.peak_memory,
        **bench.facts,
    }
    return json.dumps(whole, indent=1)


def limits(config: Config, operations: Operations, rate: float) -> str:
    """What the arithmetic alone takes at a given rate (operations per second): the time nobody can go below."""
    steps = config.denoise
    rows = {**operations._asdict(), "actions": operations.actions(steps), "full 4D request": operations.request(steps)}
    lines = [f"| {config.name} | TFLOP | at {rate / 1e12:g} TFLOP/s |", "| --- | ---: | ---: |"]
    lines += [
        f"| {name.replace('_', ' ')} | {number / 1e12:.4g} | {_ms(number / rate)} |" for name, number in rows.items()
    ]
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 10 else f"{1e3 * seconds:.3g} ms"
