from __future__ import annotations

import torch

from wegeft_pl.accounting import LiveBytes


def test_peak_is_the_most_bytes_alive_at_once() -> None:
    weight = torch.zeros(100)
    with LiveBytes([weight]) as live:
        a = weight + 1  # 400
        b = a * 2  # 800
        del a
        c = b.view(2, 50)  # no new memory
        del b
        d = torch.zeros(50, dtype=torch.float64, device="meta")  # 800
        assert live.now == 800
        del c
        assert live.now == 400
    assert live.peak == 800
    assert d.nbytes == 400


def test_ignored_and_left_out_tensors_are_not_counted() -> None:
    weight = torch.zeros(100, requires_grad=True)
    with LiveBytes([weight]) as live:
        same = weight.detach().add_(1)
        new = torch.zeros(10)
        live.leave_out(new)
        assert live.now == 0
        del new, same
        assert live.now == 0
