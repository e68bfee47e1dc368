"""Measures training time without what is not training."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Adds up time between marks while it runs; on CUDA a reading waits for the device first.

    Work on CUDA is queued, so time that is read without waiting is the time of queueing. Between two readings that
    wait, the sum is right.

    Args:
        device: whose work is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started: float | None = None
        #: Seconds so far, as of the last reading or stop.
        self.seconds = 0.0

    @property
    def running(self) -> bool:
        """Whether time is being added up."""
        return self._started is not None

    def start(self) -> None:
        """Runs from now on; nothing happens where it runs already."""
        if self._started is None:
            self._wait()
            self._started = time.perf_counter()

    def read(self) -> float:
        """Waits for the device and returns the seconds so far."""
        if self._started is not None:
            self._wait()
            now = time.perf_counter()
            self.seconds += now - self._started
            self._started = now
        return self.seconds

    def stop(self) -> None:
        """Waits for the device and pauses."""
        self.read()
        self._started = None

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
