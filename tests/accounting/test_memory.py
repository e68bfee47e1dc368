from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.accounting import (
    MemoryEstimate,
    estimate_memory,
    gradient_bytes,
    optimizer_bytes,
    state_bytes,
    weight_bytes,
)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8, dtype=torch.bfloat16)
        self.second = nn.Linear(8, 4, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def adapted(device: str = "cpu") -> tuple[TwoLayers, Callable[[], Tensor]]:
    with torch.device(device):
        model = TwoLayers()
    inject(model, AdapterConfig(targets=["first"], rank=2))
    return model, lambda: model(torch.zeros(16, 8, dtype=torch.bfloat16)).sum()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_parts_of_a_small_model(device: str) -> None:
    model, loss = adapted(device)
    estimate = estimate_memory(model, partial(AdamW, lr=1e-3), loss)
    base, adapter = 2 * (8 * 8 + 8 + 8 * 4 + 4), 4 * (2 * 8 * 2)
    assert estimate.weights == base + adapter
    assert estimate.gradients == adapter
    assert estimate.optimizer == 2 * adapter + 2 * 4  # two moments, and a step count for each of phi and psi
    assert estimate.activations is not None
    assert estimate.peak == estimate.weights + estimate.gradients + estimate.optimizer + estimate.activations
    assert list(estimate.to_dict()) == ["weights", "gradients", "optimizer", "activations", "peak"]


def test_what_is_gathered_is_part_of_the_peak() -> None:
    alone, shared = MemoryEstimate(5, 3, 2, 10), MemoryEstimate(5, 3, 2, 10, gathered=7)
    assert (alone.peak, shared.peak) == (20, 27)
    assert list(shared.to_dict()) == ["weights", "gradients", "optimizer", "activations", "gathered", "peak"]


def test_without_a_loss_the_peak_is_unknown() -> None:
    model, _ = adapted()
    estimate = estimate_memory(model, partial(AdamW, lr=1e-3))
    assert estimate.activations is None
    assert estimate.peak is None


def test_shards_divide_everything_but_activations() -> None:
    model, loss = adapted()
    one, four = (estimate_memory(model, partial(SGD, lr=1.0, momentum=0.9), loss, shards=n) for n in (1, 4))
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(four, part) == -(-getattr(one, part) // 4)
    assert four.activations == one.activations
    with pytest.raises(ValueError, match="shards must be at least 1, got 0"):
        estimate_memory(model, SGD, shards=0)


@pytest.mark.parametrize(
    "factory", [partial(AdamW, lr=1e-3), partial(AdamW, lr=1e-3, fused=True), Adafactor, partial(SGD, lr=1.0)]
)
def test_optimizer_bytes_equal_a_real_step(factory: Callable[[list[nn.Parameter]], Optimizer]) -> None:
    parameters = [nn.Parameter(torch.randn(size)) for size in ((6, 4), (6, 4), (5,))]
    expected = optimizer_bytes(factory, parameters)
    optimizer = factory(parameters)
    assert state_bytes(optimizer) == 0
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert state_bytes(optimizer) == expected


def test_shared_memory_counts_once_and_gradients_when_they_exist() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert weight_bytes(model) == 4 * 16
    assert gradient_bytes(model) == 0
    model(torch.ones(1, 4)).sum().backward()
    assert gradient_bytes(model) == 4 * 16
