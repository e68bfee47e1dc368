from __future__ import annotations

import pytest
from torch import nn

from wegeft_pl.accounting import preserved_modes


def fail_in_eval(model: nn.Module) -> None:
    with preserved_modes(model):
        model.eval()
        raise RuntimeError("boom")


def test_modes_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1).eval())
    with pytest.raises(RuntimeError, match="boom"):
        fail_in_eval(model)
    assert [part.training for part in model.modules()] == [True, True, False]
