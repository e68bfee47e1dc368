"""Layers that are several projections in one: which of their output features belong to the query, which to the value.

A fused layer's output features are named parts in a fixed order, once over all features (query, key, value) or once
for every head (a period that repeats). ``fused_layers.py`` says so for the classes that are known; a subclass is
trusted only where it keeps the forward of the class that is listed.
"""

from __future__ import annotations

from torch import nn

from wegeft_pl.adapter.fused_layers import RULES, Rule
from wegeft_pl.adapter.stacked import gate_sizes


def part_sizes(parent: nn.Module, leaf: str) -> dict[str, int] | None:
    """The named parts of a fused layer, in order, within one period of its output features.

    Args:
        parent: the module that holds the layer.
        leaf: the layer's path from there, such as ``"qkv"``, or the name of a parameter of the parent's own, such as
            ``"in_proj_weight"``. Where a wrapper stands between, it has a dot: ``"qkv.linear"``.

    Returns:
        Output features by part name; their sum is the period, which repeats over the output features. None where the
        layer is not known to be fused.

    Example:
        >>> part_sizes(nn.MultiheadAttention(8, 2), "in_proj_weight")
        {'q': 8, 'k': 8, 'v': 8}
    """
    stacked = gate_sizes(parent, leaf)
    if stacked is not None:
        return stacked
    rule = _rule_of(type(parent), leaf)
    out_features = None if rule is None else _out_features(parent, leaf)
    if rule is None or out_features is None:
        return None
    sizes = rule(parent, out_features)
    assert sizes is None or out_features % sum(sizes.values()) == 0, (type(parent), leaf, out_features, sizes)
    return sizes


def parts_at(model: nn.Module, name: str) -> dict[str, int] | None:
    """The named parts of the layer or parameter of this name, where its parent or grandparent knows them.

    Args:
        model: the backbone.
        name: the layer's or the parameter's name in it, such as ``"blocks.0.attn.qkv"``.

    Returns:
        As :func:`part_sizes`.

    Example:
        >>> parts_at(nn.Sequential(nn.MultiheadAttention(8, 2)), "0.in_proj_weight")
        {'q': 8, 'k': 8, 'v': 8}
    """
    path = name.split(".")
    for depth in (1, 2)[: len(path)]:
        sizes = part_sizes(model.get_submodule(".".join(path[:-depth])), ".".join(path[-depth:]))
        if sizes is not None:
            return sizes
    return None


def _rule_of(kind: type[nn.Module], leaf: str) -> Rule | None:
    for base in kind.__mro__:
        rule = RULES.get((f"{base.__module__}.{base.__qualname__}", leaf))
        if rule is not None:
            return rule
        if "forward" in vars(base):
            return None  # a class with a forward of its own may split the features in its own way
    return None


def _out_features(parent: nn.Module, leaf: str) -> int | None:
    if leaf in dict(parent.named_parameters(recurse=False)):
        return parent.get_parameter(leaf).shape[0]
    if leaf not in dict(parent.named_modules()):
        return None  # some build the layer only with some of their settings
    layer = parent.get_submodule(leaf)
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    if type(layer).__name__ == "Conv1D":  # of transformers, which stores (I, O)
        return layer.get_parameter("weight").shape[1]
    return None
