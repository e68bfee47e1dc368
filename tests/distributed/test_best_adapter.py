"""The best adapter is the same one, and is put back alike, on two processes and on one."""

from __future__ import annotations

from typing import Any

import pytest
from distributed.conftest import Fits, worst

#: The loss falls from step to step, so the largest is that of the first step.
CASE: dict[str, Any] = {"best": "max", "trainer": {"val_check_interval": 1, "num_sanity_val_steps": 0}, "test": False}


@pytest.mark.slow
def test_two_processes_put_the_same_adapter_back(fits: Fits) -> None:
    alone = fits(1, {"alone": CASE, "last": CASE | {"best": "min"}})
    assert alone["alone"]["best"] | {"value": 0} == {"monitor": "val/loss", "value": 0, "step": 1, "restored": True}
    assert alone["last"]["best"]["restored"] is False
    assert worst(alone["alone"]["parameters"], alone["last"]["parameters"]) > 1e-3
    two = fits(2, {"ddp": CASE | {"strategy": "ddp", "batch_size": 2}})
    two |= fits(2, {"fsdp": CASE | {"strategy": "wegeft_fsdp", "batch_size": 2}})
    for name, other in two.items():
        assert other["best"]["step"] == 1, name
        assert other["best"]["value"] == pytest.approx(alone["alone"]["best"]["value"], rel=1e-5), name
        assert worst(alone["alone"]["parameters"], other["parameters"]) < 1e-5, name
