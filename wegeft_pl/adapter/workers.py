"""Threads that each read, compute and write a piece at a time, so that disk and processor work together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


class Workers:
    """A pool of threads, used as a context; inside it torch itself computes with one thread in each.

    One more than torch has threads, because one is likely to wait for the disk. Pieces are small, so that splitting
    each operation would cost more than it gains.
    """

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        # In each thread: the libraries below torch keep a number of their own for every thread.
        self._pool = ThreadPoolExecutor(self._threads + 1, "merge", torch.set_num_threads, (1,))
        self._finisher = ThreadPoolExecutor(1, "finish")
        self._finishing: deque[Future[None]] = deque()
        self._at_exit: list[Callable[[], None]] = []

    def run(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Does jobs side by side, and gives their results in the jobs' order.

        Raises:
            Exception: what a job raised.
        """
        waiting: deque[Future[Result]] = deque()
        for job in jobs:
            waiting.append(self._pool.submit(work, job))
            if len(waiting) > 2 * self._threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def finish(self, close: Callable[[], None]) -> None:
        """Lets ``close`` bring a file to the disk while the caller goes on with the next one.

        Raises:
            OSError: the file before could not be brought there.
        """
        self._finishing.append(self._finisher.submit(close))
        while len(self._finishing) > 1:
            self._finishing.popleft().result()

    def at_exit(self, close: Callable[[], None]) -> None:
        """Lets ``close`` be called when the context is left, in whatever way, after all threads have ended."""
        self._at_exit.append(close)

    def __enter__(self) -> Self:
        torch.set_num_threads(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self._pool, self._finisher):
            pool.shutdown(wait=True, cancel_futures=error is not None)
        torch.set_num_threads(self._threads)
        for close in self._at_exit:
            close()
        if error is None:
            for future in self._finishing:
                future.result()
