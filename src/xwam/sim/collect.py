"""Record scripted experts, or wandering, as a data set. Interrupt and repeat at will: it continues where it stopped.

The result depends on the arguments alone, not on the number of processes. What one episode holds: ``record.py``.
"""

import contextlib
import functools
import itertools
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from xwam.config import Simulator
from xwam.data.episodes import Episode
from xwam.data.lerobot import DatasetWriter, LeRobotEpisodes, open_lerobot
from xwam.data.videos import check_size
from xwam.processes import end_others, end_with_parent
from xwam.sim.env import ExpertEnv
from xwam.sim.record import check_can_wander, record_episode, record_wandering
from xwam.sim.simulators import MakeEnv, check_tasks, simulator_named

RETRY_STRIDE = 100_000  # a placement that the expert cannot do is replaced by the one so many seeds further
MAX_PLACEMENTS = 10  # so all seeds stay below a million; evaluation starts there
FIRST_WANDERED = 80_000  # the first seed of wandering: scenes that neither demonstrations nor tests show


@dataclass(frozen=True, kw_only=True)
class Recording:
    """How episodes are recorded. Raises ValueError on a bad number."""

    simulator: Simulator = "metaworld"
    make_env: MakeEnv | None = None  # a simulator of your own, instead of ``simulator``
    noise: float = 0.3  # strength of the exploration, a share of the largest displacement
    wander: bool = False  # no demonstrations; the hand wanders, and success is neither wanted nor noted
    width_px: int = 128
    height_px: int = 128
    action_hz: float | None = None  # None: the simulator's own rate

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise={self.noise}: a share of the largest displacement, in 0..1; 0.3 is a good choice.")
        if self.action_hz is not None and self.simulator != "metaworld":
            raise ValueError(
                f"action_hz={self.action_hz:g}: only metaworld knows other rates than its own; leave it out."
            )
        check_size(self.width_px, self.height_px)

    def open(self, task: str) -> ExpertEnv:
        """The simulator of a task, kept open while the task stays the same."""
        make_env = simulator_named(self.simulator).make_env if self.make_env is None else self.make_env
        return _opened(make_env, task, self.width_px, self.height_px, self.action_hz)


class Slot(NamedTuple):
    """One episode to record: the first seed that works of ``seed, seed + RETRY_STRIDE, …``."""

    task: str
    seed: int


def collect(
    out: Path,
    tasks: Sequence[str],
    num_episodes: int,
    recording: Recording = Recording(),
    *,
    seed: int | None = None,
    num_workers: int = 1,
) -> int:
    """Record until ``out`` holds ``num_episodes`` successful episodes of every task; returns how many it holds.

    ``seed`` is the first placement (None: 0, of wandering FIRST_WANDERED).
    Raises ValueError on a bad argument or when ``out`` holds another kind of data. Failed placements are warned about.
    """
    wander = recording.wander
    seed = (FIRST_WANDERED if wander else 0) if seed is None else seed
    _check(tasks, num_episodes, seed, num_workers)
    tasks = tuple(dict.fromkeys(tasks))
    if recording.make_env is None:
        check_tasks(recording.simulator, tasks)  # refuses an unknown name now, not after hours
    env = recording.open(tasks[0])
    if wander:
        check_can_wander(env)
    if (out / "meta" / "info.json").is_file() and _is_wandering(open_lerobot(out)) != wander:
        raise ValueError(
            f"wander={wander}: out={out} holds {'demonstrations' if wander else 'wandering'}; use a folder for each."
        )
    cameras = tuple(env.cameras.values())
    writer = DatasetWriter(out, layout=env.layout, cameras=cameras, action_hz=env.action_hz, robot_type=env.layout.name)
    done = writer.episode_keys()
    slots = [Slot(task, seed + number) for task in tasks for number in range(num_episodes)]
    left = [slot for slot in slots if not any((slot.task, s) in done for s in _seeds(slot))]
    bar = tqdm(total=len(slots), initial=len(slots) - len(left), desc="collect", unit="episode")
    try:
        with _interrupt_after_episodes() as interrupted:
            for slot, episode in _record_all(left, recording, num_workers, interrupted):
                if episode is None:
                    text = (
                        f"task={slot.task!r} seed={slot.seed}: the expert failed {MAX_PLACEMENTS} placements; left out."
                    )
                    warnings.warn(text, stacklevel=2)
                    continue
                writer.write(episode)
                bar.update()
                bar.set_postfix_str(slot.task)
    finally:
        bar.close()
        writer.finish()
    if interrupted.is_set():
        raise KeyboardInterrupt
    return writer.num_episodes


def _is_wandering(episodes: LeRobotEpisodes) -> bool:
    """Whether a data set of ours holds wandering: then no action of it is a demonstration."""
    demonstrated = episodes.demonstrated(0)
    return demonstrated is not None and not demonstrated.any()


def record_slot(slot: Slot, recording: Recording) -> Episode | None:
    """The slot's episode: with noise, else the same placement without, else further placements; None: all failed."""
    env = recording.open(slot.task)
    if recording.wander:
        return record_wandering(env, slot.seed)
    for seed in _seeds(slot):
        for noise in (recording.noise, 0.0) if recording.noise else (0.0,):
            episode = record_episode(env, seed, noise)
            if episode is not None:
                return episode
    return None


def _record_all(
    slots: Sequence[Slot], recording: Recording, num_workers: int, interrupted: threading.Event
) -> Iterator[tuple[Slot, Episode | None]]:
    """The slots' episodes in order; several processes work at most two slots each ahead of the reader."""
    if num_workers == 1:
        for slot in itertools.takewhile(lambda _: not interrupted.is_set(), slots):
            yield slot, record_slot(slot, recording)
        return
    kept = active_children()
    pool = ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=end_with_parent)
    waiting: deque[tuple[Slot, Future[Episode | None]]] = deque()
    rest = iter(slots)
    try:
        while True:
            if not interrupted.is_set():
                some = itertools.islice(rest, 2 * num_workers - len(waiting))
                with _interrupts_held():  # processes start here
                    waiting += [(slot, pool.submit(record_slot, slot, recording)) for slot in some]
            if not waiting:
                return
            slot, future = waiting.popleft()
            if not (interrupted.is_set() and future.cancel()):  # only those that have not begun can be cancelled
                yield slot, future.result()
    except BaseException:  # not to be waited for
        end_others(kept)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupt_after_episodes() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that running episodes are finished and kept; the second stops at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # signals reach the main thread only
        return

    def note(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        tqdm.write("collect: finishing the episodes that have begun (Ctrl-C again: stop at once)")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits; processes that start meanwhile never hear of it: only the one that writes shall react."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@functools.lru_cache(maxsize=1)
def _opened(make_env: MakeEnv, task: str, width_px: int, height_px: int, action_hz: float | None) -> ExpertEnv:
    rate = {} if action_hz is None else {"action_hz": action_hz}
    return make_env(task, width_px=width_px, height_px=height_px, **rate)


def _seeds(slot: Slot) -> range:
    return range(slot.seed, slot.seed + MAX_PLACEMENTS * RETRY_STRIDE, RETRY_STRIDE)


def _check(tasks: Sequence[str], num_episodes: int, seed: int, num_workers: int) -> None:
    if not tasks:
        raise ValueError("tasks=(): name at least one task.")
    if num_episodes < 1 or num_workers < 1:
        raise ValueError(f"num_episodes={num_episodes}, num_workers={num_workers}: must be 1 or more.")
    if not 0 <= seed <= RETRY_STRIDE - num_episodes:
        raise ValueError(f"seed={seed}: seed and seed + num_episodes must be in 0..{RETRY_STRIDE}.")
