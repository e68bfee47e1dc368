from __future__ import annotations

import pytest
from torch import nn

from wegeft_pl.accounting import preserved_modes


def test_modes_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1).eval())
    with pytest.raises(RuntimeError, match="boom"), preserved_modes(model):
        model.eval()
        raise RuntimeError("boom")
    assert [part.training for part in model.modules()] == [True, True, False]
