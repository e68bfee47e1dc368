"""Which changed settings of an optimiser are told, group by group."""

from __future__ import annotations

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from wegeft_pl.tasks.resumed_settings import settings_not_used, settings_of


def make(head_lr: float, decay: float = 0.1) -> AdamW:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    groups[1]["lr"] = head_lr  # type: ignore[assignment]
    optimizer = AdamW(groups, lr=1e-3, weight_decay=decay)
    LambdaLR(optimizer, lambda step: 0.5)
    return optimizer


def test_nothing_to_say_of_equal_groups() -> None:
    assert settings_not_used([settings_of(make(1e-2))], [make(1e-2).state_dict()]) == []


def test_a_group_that_differs_is_told_once() -> None:
    assert settings_not_used([settings_of(make(1e-2))], [make(5e-2).state_dict()]) == [
        "optimizer.lr 0.01 is not used: the checkpoint goes on with 0.05; start a new run to change it"
    ]
    assert settings_not_used([settings_of(make(1e-2, 0.0))], [make(1e-2).state_dict()]) == [
        "optimizer.weight_decay 0.0 is not used: the checkpoint goes on with 0.1; start a new run to change it"
    ]
