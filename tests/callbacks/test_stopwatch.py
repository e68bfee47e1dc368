from __future__ import annotations

import time

import pytest
import torch

from wegeft_pl.callbacks.stopwatch import Stopwatch


def test_only_running_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch(torch.device("cpu"))
    assert watch.read() == 0.0
    watch.start()
    now[0] = 2.0
    watch.start()  # runs already
    now[0] = 3.0
    assert watch.read() == 3.0
    now[0] = 4.0
    watch.stop()
    now[0] = 100.0
    assert not watch.running
    assert watch.read() == watch.seconds == 4.0
