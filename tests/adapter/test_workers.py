from __future__ import annotations

import threading
import time

import pytest
import torch

from wegeft_pl.adapter.workers import Workers


def test_results_come_in_order_and_jobs_run_side_by_side() -> None:
    together = threading.Barrier(2)

    def work(job: int) -> tuple[int, int]:
        if job < 2:
            together.wait(10)  # passes only when both are under way
        time.sleep(0.001 * (5 - job % 5))
        return job, torch.get_num_threads()

    before = torch.get_num_threads()
    with Workers() as workers:
        results = list(workers.run(work, range(20)))
    assert [job for job, _ in results] == list(range(20))
    assert {threads for _, threads in results} == {1}
    assert torch.get_num_threads() == before


def test_few_jobs_wait() -> None:
    started: list[int] = []
    with Workers() as workers:
        for number, _ in enumerate(workers.run(started.append, range(100))):
            assert len(started) <= number + 2 * torch.get_num_threads() + 2
    assert sorted(started) == list(range(100))


def test_finish_does_not_hold_up() -> None:
    done: list[str] = []
    may_close = threading.Event()

    def close() -> None:
        may_close.wait(10)
        done.append("close")

    with Workers() as workers:
        workers.at_exit(lambda: done.append("exit"))
        workers.finish(close)
        done.append("went on")
        may_close.set()
        workers.finish(lambda: done.append("next"))
    assert done == ["went on", "close", "next", "exit"]


def fail(*_: object) -> None:
    raise OSError("No space left on device")


@pytest.mark.parametrize("where", ["run", "finish"])
def test_an_error_reaches_the_caller_and_everything_is_closed(where: str) -> None:
    closed: list[int] = []

    def attempt() -> None:
        with Workers() as workers:
            workers.at_exit(lambda: closed.append(1))
            if where == "run":
                list(workers.run(fail, range(1000)))
            else:
                workers.finish(fail)

    before = torch.get_num_threads()
    with pytest.raises(OSError, match="No space left"):
        attempt()
    assert closed == [1]
    assert torch.get_num_threads() == before
