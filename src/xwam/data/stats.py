"""The normaliser's bounds, from exactly what training normalises: exact quantiles, in bounded memory.

Bounds are the 1 % and 99 % quantiles (linear between neighbours). Parts of kind ``gripper`` share one pair of bounds
over all arms, gripper actions too; for those with symmetric scaling, steps that do not move the
gripper (by less than 1 % of the half span of its opening) are left out: one that mostly rests would get bounds near 0,
and one that does nothing else gets that 1 % as its bounds. Bounds of a state lie at least 2 cm, 0.04 rad or 0.02 apart:
an arm that always rested would otherwise be told of its first millimetre as if it were a mile. Those of a change reach
at least 1 mm, 0.002 rad or 0.01: what hardly ever moves would otherwise be all that training sees when it does.

Quantiles come from counting: float32 numbers are mapped to integers of the same order and found digit by digit, in
three passes over the data set.
"""

import functools
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, UInt32
from tqdm import tqdm

from xwam.data.episodes import Episodes
from xwam.robot.layout import GRIPPER_ACTIONS, Layout, Part, layout_slices
from xwam.robot.normalizer import Normalizer

KIND = 1  # counts up when the same numbers get other bounds: kept ones are then measured anew
LOW, HIGH = 0.01, 0.99
FARTHEST = 3.0  # normalised values beyond this deserve a warning
LEAST_SPAN = {"m": 0.02, "rad": 0.04, "1": 0.02}  # between two quantiles, by unit; what moves less is at rest
LEAST_CHANGE = {"m": 0.001, "rad": 0.002, "1": 0.01}  # of symmetric bounds, in one action step
STATIC = 0.01  # share of the half span of the gripper's opening that counts as no motion
_DIGITS = (11, 11, 10)  # bits per pass
_EPISODES_AT_ONCE = 64

Stream = Callable[[], Iterator[Float[np.ndarray, "rows D"]]]
"""Starts a pass over the data: blocks of rows; NaN means "leave this number out"."""


class _EpisodeRows(NamedTuple):
    """A stream over some episodes; values nearer to 0 than ``smallest`` are left out."""

    dataset: Episodes
    numbers: Sequence[int]
    what: Literal["state", "action"]
    smallest: Float64[np.ndarray, " D"] | None

    def __call__(self) -> Iterator[np.ndarray]:
        for number in self.numbers:
            info = self.dataset.info(number)
            rows = info.state if self.what == "state" else info.action
            yield rows if self.smallest is None else np.where(np.abs(rows) < self.smallest, np.nan, rows)


class Bounds(NamedTuple):
    """Exact order statistics per column."""

    smallest: Float64[np.ndarray, " D"]
    q01: Float64[np.ndarray, " D"]
    q99: Float64[np.ndarray, " D"]
    largest: Float64[np.ndarray, " D"]


def normalizer_from(
    *datasets: Episodes, only: Sequence[Sequence[int]] | None = None, num_processes: int = 1, progress: bool = False
) -> Normalizer:
    """The normaliser of one or several data sets of the same layout; ``only``: these episodes, for each of them.

    Warns, once per process, about slots that never change, bounds that coincide and values beyond [-3, 3] after
    normalisation.
    """
    layout = datasets[0].layout
    for other in datasets[1:]:
        if other.layout != layout:
            raise ValueError(f"layout={other.layout.name!r} differs from {layout.name!r}: statistics need one layout.")
    numbers = [range(dataset.num_episodes) for dataset in datasets] if only is None else only
    if only is not None and not any(only):
        raise ValueError(f"only={only}: statistics need at least one episode.")
    if not any(numbers):
        raise ValueError("num_episodes=0: statistics need at least one episode; record some first.")
    parts = [
        _EpisodeRows(dataset, group, "state", None)
        for dataset, some in zip(datasets, numbers, strict=True)
        for group in _groups(some)
    ]
    with _runner(num_processes) as run, tqdm(total=8 * len(parts), desc="statistics", disable=not progress) as bar:

        def counted(task: Callable, streams: Sequence[Stream]) -> Iterator:
            for result in run(task, streams):
                bar.update()
                yield result

        state = _apart(layout.state, bounds(parts, _pools(layout.state, "gripper"), layout.state_width, counted))
        smallest = _static_threshold(layout, state)
        moving = [part._replace(what="action", smallest=smallest) for part in parts]
        action = bounds(moving, _pools(layout.action, *GRIPPER_ACTIONS), layout.action_width, counted)
    rests = (smallest > 0) & (action.smallest == 0) & (action.largest == 0)  # all its steps were left out
    q01, q99 = np.where(rests, -smallest, action.q01), np.where(rests, smallest, action.q99)
    action = action._replace(q01=q01, q99=q99)
    wide = _apart(layout.action, action, rests)
    normalizer = Normalizer(
        layout=layout, state_q01=state.q01, state_q99=state.q99, action_q01=wide.q01, action_q99=wide.q99
    )
    if lines := remarks(normalizer, state, action, rests):
        _warn_once("\n  ".join([f"statistics of layout {layout.name!r}, look before you train:", *lines]))
    return normalizer


def bounds(streams: Sequence[Stream], pools: Sequence[Sequence[int]], width: int, run: Callable = map) -> Bounds:
    """Smallest, 1 %, 99 % and largest of each pool of columns, exact for float32; columns in no pool give 0.

    ``run`` maps a function over the streams (``map``, or that of a pool of processes).
    """
    counts = np.sum(list(run(functools.partial(_count, pools), streams)), axis=0)
    ranks = [_ranks(int(count)) for count in counts]
    prefixes = [np.zeros(len(row), dtype=np.uint32) for row in ranks]
    done = 0
    for bits in _DIGITS:
        below = [np.zeros((len(row), 2**bits), dtype=np.int64) for row in prefixes]
        for tables in run(functools.partial(_count_digits, pools, prefixes, done, bits), streams):
            for total, table in zip(below, tables, strict=True):
                total += table
        for pool, table in enumerate(below):
            total = np.cumsum(table, axis=1)
            digit = (total <= ranks[pool][:, None]).sum(axis=1)
            ranks[pool] = ranks[pool] - np.where(digit > 0, np.take_along_axis(total, digit[:, None] - 1, 1)[:, 0], 0)
            prefixes[pool] = (prefixes[pool] << np.uint32(bits)) | digit.astype(np.uint32)
        done += bits
    return _bounds_from_keys(prefixes, counts, pools, width)


def remarks(normalizer: Normalizer, state: Bounds, action: Bounds, rests: Bool[np.ndarray, " Da"]) -> list[str]:
    """What a person should know about the statistics, one line per part; ``rests``: slots without any motion."""
    layout, lines = normalizer.layout, []
    todo = (
        ("state", layout.state, state, normalizer.normalize_state),
        ("action", layout.action, action, normalizer.normalize_action),
    )
    for what, parts, found, normalize in todo:
        with np.errstate(over="ignore"):
            ends = np.abs([normalize(end) for end in (found.smallest, found.largest)]).max(axis=0)
        for part, slots in layout_slices(parts):
            if not part.is_used:
                continue
            name = f"{what} part {part.name!r}"
            constant = found.smallest[slots] == found.largest[slots]
            if what == "action" and rests[slots].any():
                most = f"{found.q99[slots].max():.3g}"
                lines.append(f"{name}: never moves by more than {most}, which counts as rest; bounds are +-{most}.")
                continue
            narrow = (found.q01[slots] == found.q99[slots]) & ~constant
            if constant.any():
                lines.append(f"{name}: slots {np.flatnonzero(constant).tolist()} never change.")
            if narrow.any() and part.scaling != "identity":
                lines.append(f"{name}: slots {np.flatnonzero(narrow).tolist()} have q01 == q99, yet do change.")
            far = [slot for slot in np.argsort(-ends[slots]) if ends[slots][slot] > FARTHEST]
            if far:
                worst = ", ".join(f"slot {slot} reaches {ends[slots][slot]:.3g}" for slot in far)
                lines.append(f"{name}: beyond +-{FARTHEST:g} after normalisation: {worst}.")
    return lines


@functools.cache
def _warn_once(text: str) -> None:
    """The same data set gives the same text: it need not be read twice."""
    warnings.warn(text, stacklevel=3)


def _pools(parts: tuple[Part, ...], *shared: str) -> list[list[int]]:
    """Groups of slots that share bounds: the used slots of the shared kinds together, every other used slot alone."""
    pools: list[list[int]] = []
    together: list[int] = []
    for part, where in layout_slices(parts):
        slots = list(range(where.start, where.stop))
        if part.is_used and part.kind in shared:
            together += slots
        elif part.is_used:
            pools += [[slot] for slot in slots]
    return [*pools, together] if together else pools


def _apart(parts: tuple[Part, ...], found: Bounds, but: Bool[np.ndarray, " D"] | bool = False) -> Bounds:
    """Bounds that nearly coincide, moved apart: by LEAST_SPAN around their middle, symmetric ones to LEAST_CHANGE.

    ``but``: slots whose bounds stay.
    """

    def least(of: Mapping[str, float], scaling: str) -> Float64[np.ndarray, " D"]:
        spans = [of.get(part.unit, 0.0) * (part.is_used and part.scaling == scaling) for part in parts]
        return np.repeat(spans, [part.size for part in parts])

    room = np.maximum(least(LEAST_SPAN, "quantile") - (found.q99 - found.q01), 0) / 2
    change = least(LEAST_CHANGE, "symmetric")
    is_small = (np.maximum(np.abs(found.q01), np.abs(found.q99)) < change) & ~np.asarray(but)
    q01, q99 = np.where(is_small, -change, found.q01 - room), np.where(is_small, change, found.q99 + room)
    return found._replace(q01=q01, q99=q99)


def _static_threshold(layout: Layout, state: Bounds) -> Float64[np.ndarray, " Da"]:
    """Per action slot: smaller values are no motion of the gripper and are left out (0: keep all)."""
    kinds = np.repeat([part.kind for part in layout.state], [part.size for part in layout.state])
    opening = layout.state_mask & (kinds == "gripper")
    half_span = (state.q99 - state.q01)[opening].max() / 2 if opening.any() else 0.0
    counts = [part.kind in GRIPPER_ACTIONS and part.scaling == "symmetric" for part in layout.action]
    return np.repeat(counts, [part.size for part in layout.action]) * STATIC * half_span


def _keys(values: Float[np.ndarray, "rows columns"]) -> UInt32[np.ndarray, " numbers"]:
    """Integers in the order of the float32 numbers; NaN left out."""
    flat = values.astype(np.float32).ravel()
    bits = (flat[~np.isnan(flat)] + np.float32(0)).view(np.uint32)  # + 0 turns -0 into 0
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))


def _count(pools: Sequence[Sequence[int]], stream: Stream) -> Int[np.ndarray, " pools"]:
    counts = np.zeros(len(pools), dtype=np.int64)
    for rows in stream():
        counts += np.array([np.count_nonzero(~np.isnan(rows[:, columns])) for columns in pools], dtype=np.int64)
    return counts


def _count_digits(
    pools: Sequence[Sequence[int]], prefixes: Sequence[np.ndarray], done: int, bits: int, stream: Stream
) -> list[Int[np.ndarray, "targets digits"]]:
    """How often each next digit follows each target's first ``done`` bits."""
    tables = [np.zeros((len(row), 2**bits), dtype=np.int64) for row in prefixes]
    for rows in stream():
        for table, columns, wanted in zip(tables, pools, prefixes, strict=True):
            keys = _keys(rows[:, columns])
            for prefix in np.unique(wanted):
                same = keys if done == 0 else keys[keys >> np.uint32(32 - done) == prefix]
                digits = (same >> np.uint32(32 - done - bits)) & np.uint32(2**bits - 1)
                table[wanted == prefix] += np.bincount(digits.astype(np.int64), minlength=2**bits)
    return tables


@contextmanager
def _runner(num_processes: int) -> Iterator[Callable]:
    if num_processes == 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        yield pool.imap_unordered


def _groups(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(numbers), _EPISODES_AT_ONCE):
        yield numbers[first : first + _EPISODES_AT_ONCE]


def _ranks(count: int) -> Int[np.ndarray, " ranks"]:
    """Which order statistics are needed: the ends, and the two neighbours of each quantile."""
    last = max(count - 1, 0)
    low, high = int(LOW * last), int(HIGH * last)
    return np.array([0, low, min(low + 1, last), high, min(high + 1, last), last], dtype=np.int64)


def _bounds_from_keys(
    prefixes: list[np.ndarray], counts: np.ndarray, pools: Sequence[Sequence[int]], width: int
) -> Bounds:
    found = np.zeros((4, width))
    for keys, count, columns in zip(prefixes, counts, pools, strict=True):
        if count == 0:
            continue
        bits = np.where(keys >> np.uint32(31), keys ^ np.uint32(1 << 31), ~keys)
        least, low, after_low, high, after_high, most = bits.view(np.float32).astype(np.float64)
        q01 = low + (LOW * (count - 1)) % 1 * (after_low - low)
        q99 = high + (HIGH * (count - 1)) % 1 * (after_high - high)
        found[:, columns] = np.array([least, q01, q99, most])[:, None]
    return Bounds(*found)
