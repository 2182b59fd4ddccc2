"""Processes that help another one, and end with it."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess


def in_processes(fill: Callable[[int, bool], None], processes: int) -> None:
    """Let this process and some more share out the work, and the cores: too many threads wait for each other.

    Each calls ``fill(number of threads, whether this is the main one)``, which must be something that pickles.
    """
    import torch  # here alone: a simulator's helpers do without

    context, num_threads = multiprocessing.get_context("spawn"), torch.get_num_threads()
    share = max(1, num_threads // processes)
    helpers = [context.Process(target=fill, args=(share, False)) for _ in range(processes - 1)]
    for helper in helpers:
        helper.start()
    try:
        fill(share, True)
        for helper in helpers:
            helper.join()
    finally:
        torch.set_num_threads(num_threads)
        for helper in helpers:
            helper.terminate()


def end_with_parent() -> None:
    """In a helper process: end when the one that started it does.

    A killed run's helpers would go on with what the next run does again.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def end_others(kept: Iterable[BaseProcess]) -> None:
    """End this process's children at once, but for those that are kept."""
    for child in set(multiprocessing.active_children()) - set(kept):
        child.terminate()
