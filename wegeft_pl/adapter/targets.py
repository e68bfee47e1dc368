"""Which modules are edited: names in, sites' modules out, or an error that names what the model has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from torch import nn

from wegeft_pl.adapter.layout import layout_of

ALL_LINEAR = "all-linear"


def block_index(name: str) -> int | None:
    """The index of the repeated block that a module sits in: the first number in its path, or None.

    A number at the end is the module's own name (the second layer of a classifier) and no block.

    Example:
        >>> block_index("model.layers.11.self_attn.q_proj"), block_index("classifier.1")
        (11, None)
    """
    return next((int(part) for part in name.split(".")[:-1] if part.isdigit()), None)


def type_pattern(name: str) -> str:
    """A module's name with its blocks' numbers replaced, equal for the same module of every block.

    A number at the end is the module's own name (the third layer of an nn.Sequential) and stays.

    Example:
        >>> type_pattern("model.layers.11.self_attn.q_proj"), type_pattern("blocks.4.mlp.2")
        ('model.layers.*.self_attn.q_proj', 'blocks.*.mlp.2')
    """
    *path, last = name.split(".")
    return ".".join([*("*" if part.isdigit() else part for part in path), last])


def match_modules(model: nn.Module, patterns: Sequence[str] | str, field: str) -> dict[str, nn.Module]:
    """Finds the modules that a field of the config names.

    Args:
        model: the backbone.
        patterns: as :class:`AdapterConfig` describes ``targets``.
        field: the field's name, for messages.

    Returns:
        Matched modules by name, in the model's order.

    Raises:
        ValueError: an entry matches nothing, or a regular expression is broken.
    """
    # remove_duplicate=False would list a module reached by two names twice; the first name is the one to save under.
    modules = {name: module for name, module in model.named_modules() if name}
    if isinstance(patterns, str):
        if patterns == ALL_LINEAR:
            matched = {
                name: module
                for name, module in modules.items()
                if layout_of(module) is not None and not isinstance(module, nn.Conv2d) and block_index(name) is not None
            }
            if not matched:
                raise ValueError(f"{field}: {ALL_LINEAR!r} found no linear layer inside repeated blocks; name modules")
            return matched
        expression = compile_expression(patterns, field)
        matched = {name: module for name, module in modules.items() if expression.fullmatch(name)}
        if not matched:
            raise ValueError(
                f"{field}: the expression {patterns!r} matches no module's whole name; this model has "
                f"{_known(modules)} (a plain name goes in a list: [{patterns}])"
            )
        return matched
    hits = {pattern: [name for name in modules if _ends_with(name, pattern)] for pattern in patterns}
    for pattern, names in hits.items():
        if not names:
            # Any module with parameters can be trained in full; only some can be edited.
            candidates = modules if field == "targets" else _with_parameters(modules)
            raise ValueError(f"{field}: no module matches {pattern!r}; {_suggestion(pattern, candidates, field)}")
    wanted = {name for names in hits.values() for name in names}
    return {name: module for name, module in modules.items() if name in wanted}


def match_targets(model: nn.Module, targets: Sequence[str] | str, layers: Sequence[int] | None) -> dict[str, nn.Module]:
    """Finds the layers to edit and refuses what cannot be edited.

    Args:
        model: the backbone.
        targets: as in :class:`AdapterConfig`.
        layers: block indices to keep, or None for all.

    Returns:
        Layers by name, in the model's order.

    Raises:
        ValueError: nothing matches, a match is of a kind that has no editable weight, its weight is read without the
            layer being called, or a layer index does not exist.
    """
    matched = match_modules(model, targets, "targets")
    if layers is not None:
        present = sorted({index for name in matched if (index := block_index(name)) is not None})
        missing = [index for index in layers if index not in present]
        if missing:
            have = f"{present[0]} to {present[-1]}" if present else "no numbered blocks"
            raise ValueError(f"layers: the targets have no block {missing[0]}; this model has {have}")
        matched = {name: module for name, module in matched.items() if block_index(name) in layers}
    for name, module in matched.items():
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention):
            raise ValueError(
                f"{name} cannot be edited: nn.MultiheadAttention reads this weight without calling the layer; "
                "target other layers of this model"
            )
        if layout_of(module) is None:
            raise ValueError(
                f"{name} is of type {type(module).__name__}, which has no editable weight; targets are Linear, "
                f"Hugging Face Conv1D and Conv2d layers, such as {_known(dict(model.named_modules()))}"
            )
    return matched


def compile_expression(expression: str, field: str) -> re.Pattern[str]:
    """Compiles a user's regular expression.

    Raises:
        ValueError: the expression is not valid; the message says where it breaks.
    """
    try:
        return re.compile(expression)
    except re.error as error:
        raise ValueError(f"{field}: {expression!r} is not a regular expression: {error}") from error


def _ends_with(name: str, pattern: str) -> bool:
    return name == pattern or name.endswith("." + pattern)


def _with_parameters(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return {name: module for name, module in modules.items() if any(True for _ in module.parameters(recurse=False))}


def _leaf_names(modules: dict[str, nn.Module], field: str = "targets") -> list[str]:
    every = field != "targets"
    leaves = (name.rpartition(".")[2] for name, module in modules.items() if every or layout_of(module) is not None)
    return list(dict.fromkeys(leaf for leaf in leaves if not leaf.isdigit()))


def _known(modules: dict[str, nn.Module], field: str = "targets") -> str:
    names = _leaf_names(modules, field)
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "no linear or convolution layer"


def _suggestion(pattern: str, modules: dict[str, nn.Module], field: str) -> str:
    last = pattern.rpartition(".")[2]
    close = get_close_matches(last, _leaf_names(modules, field), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}this model has {_known(modules, field)}"
