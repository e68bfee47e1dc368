"""How a fused layer shows which of its rows are which, on the layer itself.

Rows that are zero tell what they are: with the value's, nothing of the input is left in the output; with the query's
or with the key's, every score is equal, and the output is the same. A token's query matters to that token alone, its
key to the others. An output is linear in what a gate multiplies and not in the gate. Rows too many or too few fail.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from adapter.tiny_layers import SEQUENCE, call, inputs
from torch import Tensor, nn

from wegeft_pl.adapter.fused import part_sizes

Run = Callable[[nn.Module, Tensor], Tensor]


@dataclass
class Case:
    """A real layer and how to call it.

    ``query`` is the layer beside it that makes the query where the fused one does not; ``by_token`` is False where
    the attention is not between tokens, or mixes them before or after; ``silent`` is False where something is left of
    a gated MLP without up.
    """

    name: str
    leaf: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = SEQUENCE
    run: Run = call
    query: str = ""
    by_token: bool = True
    silent: bool = True


def rows(parts: dict[str, int], part: str, out_features: int) -> Tensor:
    """The output features of a part, over all periods."""
    period, names = sum(parts.values()), list(parts)
    start = sum(parts[name] for name in names[: names.index(part)])
    return torch.tensor([i for i in range(out_features) if start <= i % period < start + parts[part]])


def scaled(module: nn.Module, leaf: str, part: str, scale: float = 0.0) -> nn.Module:
    """A copy whose layer has one part's rows (weight and bias) multiplied."""
    parts = part_sizes(module, leaf)
    assert parts is not None
    changed = copy.deepcopy(module)
    if leaf in dict(changed.named_parameters(recurse=False)):
        weight, bias, axis = changed.get_parameter(leaf), changed.get_parameter("in_proj_bias"), 0
    else:
        layer = changed.get_submodule(leaf)
        axis = 1 if type(layer).__name__ == "Conv1D" else 0
        weight, bias = layer.get_parameter("weight"), dict(layer.named_parameters()).get("bias")
    chosen = rows(parts, part, weight.shape[axis])
    weight.index_copy_(axis, chosen, scale * weight.index_select(axis, chosen))
    if bias is not None:
        bias[chosen] *= scale
    return changed


def silenced(module: nn.Module, path: str) -> nn.Module:
    """A copy whose layer at this path gives zeros."""
    changed = copy.deepcopy(module)
    for parameter in changed.get_submodule(path).parameters():
        parameter.zero_()
    return changed


def without_columns(module: nn.Module, columns: slice) -> nn.Module:
    """A copy whose out_proj ignores some of its inputs."""
    changed = copy.deepcopy(module)
    changed.get_parameter("out_proj.weight")[:, columns] = 0.0
    return changed


def first(output: Any) -> Tensor:
    """The first of what a layer returns."""
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


def close(found: Tensor, wanted: Tensor) -> bool:
    return float((found - wanted).abs().max()) <= 1e-9 * max(1e-3, float(wanted.abs().max()))


def bend(module: nn.Module, leaf: str, part: str, run: Run, x: Tensor) -> float:
    """How far the output is from being affine in one part's rows, relative to its size."""
    low, middle, high = (run(scaled(module, leaf, part, scale), x) for scale in (0.0, 0.5, 1.0))
    return float((low + high - 2 * middle).abs().max() / high.abs().max())


def others_change(module: nn.Module, leaf: str, part: str, run: Run, x: Tensor) -> bool:
    """Whether the outputs of other tokens change with one part of the first token's features."""
    layer = module.get_submodule(leaf)
    axis = 1 if isinstance(layer, nn.Conv2d) else -1
    parts = part_sizes(module, leaf)
    assert parts is not None

    def move(_: nn.Module, args: tuple[Any, ...], features: Tensor) -> Tensor:
        moved = features.movedim(axis, -1).contiguous().clone()
        flat = moved.view(-1, moved.shape[-1])
        flat[0, rows(parts, part, moved.shape[-1])] += 1.0
        return moved.movedim(-1, axis)

    plain = run(module, x)
    handle = layer.register_forward_hook(move)
    changed = run(module, x)
    handle.remove()
    difference = (changed - plain).movedim(axis, -1).flatten(0, -2).abs()
    return float(difference[1:].max()) > 1e-9 * float(plain.abs().max())


def prove_attention(module: nn.Module, case: Case) -> None:
    """Zero value rows: a constant. Zero query rows or key rows: equal scores, the same output."""
    leaf, run, (x, y) = case.leaf, case.run, inputs(case.shape)
    parts = part_sizes(module, leaf)
    assert parts is not None
    plain = run(module, x)
    assert not close(run(module, y), plain)
    if "v" in parts:
        without = scaled(module, leaf, "v")
        assert close(run(without, x), run(without, y))
    if "z" in parts:
        without = scaled(module, leaf, "z")
        assert close(run(without, x), run(without, y))
    query = scaled(module, leaf, "q") if "q" in parts else silenced(module, case.query)
    assert close(run(query, x), run(scaled(module, leaf, "k"), x))
    assert not close(run(query, x), plain)
    if "q" in parts and case.by_token:
        assert not others_change(module, leaf, "q", run, x)
        assert others_change(module, leaf, "k", run, x)


def prove_gate(module: nn.Module, case: Case) -> None:
    """The output is affine in the rows of up, bends with those of gate, and holds nothing without up."""
    x, y = inputs(case.shape)
    assert set(part_sizes(module, case.leaf) or ()) == {"gate", "up"}
    assert bend(module, case.leaf, "up", case.run, x) <= 1e-9
    assert bend(module, case.leaf, "gate", case.run, x) >= 1e-3
    if case.silent:
        without = scaled(module, case.leaf, "up")
        assert close(case.run(without, x), case.run(without, y))
