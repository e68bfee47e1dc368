from __future__ import annotations

import math

import pytest
import torch

from wegeft_pl.tasks import ConstantSchedule, CosineSchedule, LinearSchedule


def test_cosine_follows_its_formula() -> None:
    schedule = CosineSchedule(warmup_ratio=0.1, min_ratio=0.2)
    for step in range(10, 100):
        expected = 0.2 + 0.8 * (1 + math.cos(math.pi * (step - 10) / 90)) / 2
        assert schedule.multiplier(step, 100) == pytest.approx(expected)


def test_linear_ends_at_its_minimum_and_warm_up_never_starts_at_zero() -> None:
    schedule = LinearSchedule(warmup_steps=4)
    assert [schedule.multiplier(step, 8) for step in range(9)] == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25, 0]
    assert schedule.multiplier(100, 8) == 0


def test_constant_and_no_warm_up() -> None:
    assert ConstantSchedule().multiplier(0, 10) == ConstantSchedule().multiplier(9, 10) == 1


def test_build_drives_an_optimiser() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = LinearSchedule(warmup_steps=2).build(optimizer, 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [1.0, 2.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup_ratio": 1.5}, r"warmup_ratio must lie in \[0, 1\], got 1.5"),
        ({"min_ratio": -1}, r"min_ratio must lie in \[0, 1\], got -1"),
        ({"warmup_steps": -1}, r"warmup_steps must not be negative, got -1"),
    ],
)
def test_wrong_values_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearSchedule(**fields)
