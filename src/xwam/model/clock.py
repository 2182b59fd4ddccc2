"""A stop-watch for the stages of an answer."""

import time

import torch


class Clock:
    """Seconds spent per stage; waits for the device so that each stage pays for itself."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self._last = device, {}, time.perf_counter()

    def mark(self, stage: str) -> None:
        """The stage that ends now took the time since the last mark."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now
