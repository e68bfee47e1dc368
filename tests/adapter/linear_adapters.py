"""A small float64 net, adapters for it with large random factors, and the equations applied to its weights."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import merged_input_side, merged_output_side, moved_bias
from torch import nn

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.adapter import SavedAdapter

SIDES = pytest.mark.parametrize("side", ["input", "output"])


class Net(nn.Module):
    """Two blocks of unequal layers with biases, in float64 so that only the algebra can be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(6, 9), "down": nn.Linear(9, 6)}) for _ in range(2))
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block["down"](block["up"](x))
        return x


def made(net: Net, folder: Path, seed: int, **fields: object) -> SavedAdapter:
    """An adapter with large random factors, saved from a copy of the net and read back."""
    config = AdapterConfig(**({"targets": ["up", "down"], "rank": 3, "alpha": 1.5} | fields))
    adapter = inject(copy.deepcopy(net), config)
    torch.manual_seed(seed)
    for _, parameter in adapter.named_parameters():
        nn.init.normal_(parameter, std=0.7)
    adapter.save(folder / str(seed), base_name="nets/net")
    return SavedAdapter.read(folder / str(seed))


def applied(weights: dict[str, np.ndarray], adapter: SavedAdapter) -> dict[str, np.ndarray]:
    """Every weight and bias after the adapter, by the equations."""
    after = dict(weights)
    oracle = merged_input_side if adapter.config.side == "input" else merged_output_side
    for factors in adapter.groups.values():
        phi, psi = factors.phi.numpy(), factors.psi.numpy()
        for site in factors.sites:
            after[f"{site}.weight"] = oracle(weights[f"{site}.weight"], phi, psi, adapter.config.scale)
            if adapter.config.side == "output":
                after[f"{site}.bias"] = moved_bias(weights[f"{site}.bias"], phi, psi, adapter.config.scale)
    return after


def arrays(net: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in net.state_dict().items() if "wegeft" not in name}


def assert_equal(one: dict[str, np.ndarray], two: dict[str, np.ndarray], tolerance: float = 1e-11) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], rtol=tolerance, atol=tolerance, err_msg=name)
