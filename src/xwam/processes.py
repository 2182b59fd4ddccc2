"""Processes that help another one."""

import multiprocessing
import os
import threading
from collections.abc import Iterable
from multiprocessing.process import BaseProcess


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
