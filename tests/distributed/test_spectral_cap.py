"""The cap where phi and psi are spread over processes: gathered, projected alike, own rows written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from distributed.conftest import Fits, worst

CAP = 0.05
ADAPTER = {"adapter": {"targets": ["q_proj", "down_proj"]}, "cap": CAP, "test": False}


def largest(result: dict[str, Any]) -> list[float]:
    """sigma_max(s phi psi) of each group, s = 2 and R = 3."""
    factors = {name: torch.tensor(values, dtype=torch.float64) for name, values in result["parameters"].items()}
    names = [name.removesuffix(".phi") for name in factors if name.endswith(".phi")]
    products = [2.0 * factors[f"{n}.phi"].reshape(-1, 3) @ factors[f"{n}.psi"].reshape(3, -1) for n in names]
    return [float(torch.linalg.svdvals(product)[0]) for product in products]


@pytest.mark.slow
def test_two_processes_cap_as_one_does(fits: Fits) -> None:
    alone = fits(1, {"one": ADAPTER, "free": {**ADAPTER, "cap": None}})
    two = fits(2, {name: ADAPTER | {"strategy": name, "batch_size": 2} for name in ("ddp", "wegeft_fsdp")})
    assert min(largest(alone["free"])) > 1.5 * CAP
    for result in (alone["one"], *two.values()):
        assert all(0.99 * CAP < value <= CAP * (1 + 1e-12) for value in largest(result))
        assert worst(alone["one"]["parameters"], result["parameters"]) < 1e-5
    assert two["wegeft_fsdp"]["sharded"]
