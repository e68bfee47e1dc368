"""Whether a module calls the layer whose weight it needs: proven by a hook that stays silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wegeft_pl.adapter.readers import reader_of


def calls(module: nn.Module, leaf: str, run: Callable[[nn.Module], Any]) -> int:
    """How often the layer is called while the module runs."""
    seen: list[nn.Module] = []
    handle = module.get_submodule(leaf).register_forward_pre_hook(lambda layer, args: seen.append(layer))
    run(module)
    handle.remove()
    return len(seen)


def result(module: nn.Module, run: Callable[[nn.Module], Any]) -> Tensor:
    """The first tensor of what the module returns."""
    output = run(module)
    while isinstance(output, tuple | list):
        output = output[0]
    assert isinstance(output, Tensor)
    return output.clone()


def prove_bypassed(module: nn.Module, leaf: str, run: Callable[[nn.Module], Any]) -> None:
    """The module's output depends on the layer's weight, the layer is never called, and the table says so."""
    assert reader_of(nn.Sequential(module), f"0.{leaf}", "weight") == "0"
    assert calls(module, leaf, run) == 0
    before = result(module, run)
    module.get_parameter(f"{leaf}.weight").mul_(-1.5)
    assert not torch.allclose(result(module, run), before)


def prove_called(module: nn.Module, leaf: str, run: Callable[[nn.Module], Any]) -> None:
    """The layer is called, and the table says so."""
    assert reader_of(nn.Sequential(module), f"0.{leaf}", "weight") is None
    assert calls(module, leaf, run) == 1
