"""What the server counts, as Prometheus reads it: counters, gauges and histograms with a fixed set of names."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping

from xwam.serve.ticket import Part

LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class Counter:
    """Counts up; with ``label`` one number per allowed value of it, so that strangers cannot add names."""

    def __init__(self, name: str, meaning: str, label: str = "", values: tuple[str, ...] = ("",)) -> None:
        self.name, self.meaning, self.label = name, meaning, label
        self.counts = dict.fromkeys(values, 0)

    def add(self, value: str = "", amount: int = 1) -> None:
        """Count one more."""
        self.counts[value] += amount

    def text(self) -> str:
        """In Prometheus' text form."""
        lines = [f"# HELP {self.name} {self.meaning}", f"# TYPE {self.name} counter"]
        for value, count in self.counts.items():
            label = f'{{{self.label}="{value}"}}' if self.label else ""
            lines.append(f"{self.name}{label} {count}")
        return "\n".join(lines)


class Histogram:
    """How often a measured value was at most each bound."""

    def __init__(self, name: str, meaning: str, bounds: tuple[float, ...]) -> None:
        self.name, self.meaning, self.bounds = name, meaning, bounds
        self.counts, self.total = [0] * (len(bounds) + 1), 0.0

    def add(self, value: int | float) -> None:
        """Take one measurement."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def text(self) -> str:
        """In Prometheus' text form: counts add up from bound to bound."""
        lines, so_far = [f"# HELP {self.name} {self.meaning}", f"# TYPE {self.name} histogram"], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            lines.append(f'{self.name}_bucket{{le="{bound}"}} {so_far}')
        return "\n".join([*lines, f"{self.name}_sum {self.total}", f"{self.name}_count {so_far}"])


class Metrics:
    """All counters of one server. Gauges are asked for when read."""

    def __init__(self, rules: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._answers = Counter("xwam_answers_total", "Answers given.", "part", ("actions", "world"))
        self._refusals = Counter("xwam_refusals_total", "Requests refused, by rule.", "rule", rules)
        self._preemptions = Counter("xwam_preemptions_total", "Times a world waited for actions between two steps.")
        self._steps = Counter("xwam_world_steps_total", "Steps of worlds computed after their actions.")
        self._latency = Histogram("xwam_actions_seconds", "From a request's arrival to its actions.", LATENCY_S)
        self._worlds = Histogram("xwam_world_seconds", "From a request's arrival to its world.", LATENCY_S)
        self._batches = Histogram("xwam_batch_size", "Requests computed together.", BATCH_SIZES)
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def answered(self, part: Part, seconds: float) -> None:
        """Actions, or a world, were ready after so long."""
        with self._lock:
            self._answers.add(part)
            (self._latency if part == "actions" else self._worlds).add(seconds)

    def refusal(self, rule: str) -> None:
        """A request was refused."""
        with self._lock:
            self._refusals.add(rule)

    def batch(self, size: int, *, preempts: bool) -> None:
        """A batch of requests began; ``preempts``: an unfinished world waits for it."""
        with self._lock:
            self._batches.add(size)
            self._preemptions.add(amount=int(preempts))

    def step(self) -> None:
        """A world went on by one step."""
        with self._lock:
            self._steps.add()

    def counts(self) -> Mapping[str, int]:
        """Answers and refusals so far, by name."""
        with self._lock:
            return {**self._answers.counts, **self._refusals.counts}

    def text(self) -> str:
        """Everything in Prometheus' text form."""
        with self._lock:
            parts = (self._answers, self._refusals, self._preemptions, self._steps)
            pieces = [part.text() for part in (*parts, self._latency, self._worlds, self._batches)]
        for name, (meaning, value) in self.gauges.items():
            pieces.append(f"# HELP {name} {meaning}\n# TYPE {name} gauge\n{name} {value():g}")
        return "\n".join(pieces) + "\n"
