"""When to end a run early: out of time, Ctrl-C, or SIGTERM (what schedulers send). A step is never cut in half."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import torch

from xwam.train.peers import Peers, any_says


class StopSign:
    """Raised by the clock or by a signal, on every process at once; a second Ctrl-C interrupts at once."""

    def __init__(self, max_minutes: float | None, peers: Peers, device: torch.device) -> None:
        self.was_interrupted = False
        self._deadline = None if max_minutes is None else time.perf_counter() + 60 * max_minutes
        self._peers, self._device = peers, device
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSign":
        if threading.current_thread() is threading.main_thread():
            self._handlers = {kind: signal.signal(kind, self._interrupt) for kind in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            if handler is not None:  # else it was set outside Python
                signal.signal(number, handler)

    def is_up(self) -> bool:
        """True when the run should save and end. Every process must ask after every step."""
        is_late = self._deadline is not None and time.perf_counter() > self._deadline
        return any_says(is_late or self.was_interrupted, self._peers, self._device)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.was_interrupted and number == signal.SIGINT:  # schedulers say SIGTERM more than once
            raise KeyboardInterrupt
        self.was_interrupted = True
