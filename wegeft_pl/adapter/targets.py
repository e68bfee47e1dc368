"""Which modules are edited: names in, sites' modules out, or an error that names what the model has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from torch import nn

from wegeft_pl.adapter.candidates import Candidates, ends_with, refusal
from wegeft_pl.adapter.place import Place

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


def match_modules(model: nn.Module, patterns: Sequence[str], field: str) -> dict[str, nn.Module]:
    """Finds the modules that a list of the config names, editable or not.

    Args:
        model: the backbone.
        patterns: trailing parts of module names, or whole names.
        field: the field's name, for messages.

    Returns:
        Matched modules by name, in the model's order.

    Raises:
        ValueError: an entry matches nothing.
    """
    # remove_duplicate=False would list a module reached by two names twice; the first name is the one to save under.
    modules = {name: module for name, module in model.named_modules() if name}
    for pattern in patterns:
        if not any(ends_with(name, pattern) for name in modules):
            # Any module with parameters can be trained in full; only some can be edited.
            known = _with_parameters(modules)
            raise ValueError(f"{field}: no module matches {pattern!r}; {_suggestion(pattern, known)}")
    return {name: module for name, module in modules.items() if any(ends_with(name, pattern) for pattern in patterns)}


def match_targets(
    model: nn.Module,
    targets: Sequence[str] | str,
    layers: Sequence[int] | None,
    fused: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, Place]:
    """Finds what to edit and refuses what cannot be edited.

    Args:
        model: the backbone.
        targets: as in :class:`AdapterConfig`.
        layers: block indices to keep, or None for all.
        fused: as in :class:`AdapterConfig`.

    Returns:
        Weights and parts of weights by name, in the model's order.

    Raises:
        ValueError: nothing matches, a match is of a kind that has no editable weight, a layer is named whole and in
            parts, or a layer index does not exist.
    """
    candidates = Candidates.of(model, fused or {})
    if isinstance(targets, str):
        matched = _match_text(targets, candidates)
    else:
        matched = _match_list(model, targets, candidates)
    if layers is not None:
        present = sorted({index for name in matched if (index := block_index(name)) is not None})
        missing = [index for index in layers if index not in present]
        if missing:
            have = f"{present[0]} to {present[-1]}" if present else "no numbered blocks"
            raise ValueError(f"layers: the targets have no block {missing[0]}; this model has {have}")
        matched = {name: place for name, place in matched.items() if block_index(name) in layers}
    for name, place in matched.items():
        reason = refusal(place)
        if reason is not None:
            raise ValueError(f"{name} cannot be edited: {reason}; target other layers, such as {_names(candidates)}")
    return matched


def _match_text(text: str, candidates: Candidates) -> dict[str, Place]:
    if text == ALL_LINEAR:
        inside = {name: place for name, place in candidates.whole.items() if block_index(name) is not None}
        matched = {name: place for name, place in inside.items() if place.layout.kind != "conv2d"}
        if not matched:
            raise ValueError(f"targets: {ALL_LINEAR!r} found no linear layer inside repeated blocks; name modules")
        return matched
    expression = compile_expression(text, "targets")
    matched = {}
    for name, place in candidates.whole.items():
        if expression.fullmatch(name):  # with all its parts
            matched[name] = place
        else:
            parts = candidates.parts.get(name, {})
            matched |= {part: own for part, own in parts.items() if expression.fullmatch(part)}
    if not matched:
        raise ValueError(
            f"targets: the expression {text!r} matches no layer's whole name; this model has "
            f"{_names(candidates)} (a plain name goes in a list: [{text}])"
        )
    return matched


def _match_list(model: nn.Module, patterns: Sequence[str], candidates: Candidates) -> dict[str, Place]:
    parts = candidates.all_parts()
    matched: dict[str, Place] = {}
    for pattern in patterns:
        # A part's name is only tried where no layer has that name: T5 has layers called q, fused ones have parts.
        hits = [name for name in candidates.whole if ends_with(name, pattern)]
        hits = hits or [name for name in parts if ends_with(name, pattern)]
        if not hits:
            raise ValueError(f"targets: {_no_match(model, pattern, candidates)}")
        matched |= {name: candidates.whole.get(name) or parts[name] for name in hits}
    for name, place in matched.items():
        if place.layout.part is not None and name.rpartition(".")[0] in matched:
            raise ValueError(
                f"targets name {name.rpartition('.')[0]} whole and its part {name.rpartition('.')[2]}; name the layer, "
                "or its parts"
            )
    order = {name: index for index, name in enumerate([*candidates.whole, *parts])}
    layers = {part: order[whole] for whole, own in candidates.parts.items() for part in own}
    return dict(sorted(matched.items(), key=lambda item: (layers.get(item[0], order[item[0]]), order[item[0]])))


def _no_match(model: nn.Module, pattern: str, candidates: Candidates) -> str:
    named = [(name, module) for name, module in model.named_modules() if name and ends_with(name, pattern)]
    if named:
        name, module = named[0]
        return (
            f"{name} is of type {type(module).__name__}, which has no editable weight; targets are Linear, Hugging "
            f"Face Conv1D and Conv2d layers, nn.MultiheadAttention's matrices and stacked experts, such as "
            f"{_names(candidates)}"
        )
    layer, _, part = pattern.rpartition(".")
    fused = next((name for name in candidates.whole if layer and ends_with(name, layer)), None)
    if fused is not None:
        known = [name.rpartition(".")[2] for name in candidates.parts.get(fused, {})]
        if known:
            return f"{fused} has no part {part!r}; its parts are {', '.join(known)}"
        kind = type(candidates.whole[fused].module).__name__
        return (
            f"how {fused} ({kind}) is made up of parts is not known; say it with fused: {{{layer}: {{{part}: ROWS, "
            "...}}, every part's size in order, or target the whole layer"
        )
    return f"no module matches {pattern!r}; {_suggestion(pattern, list(candidates.whole))}"


def compile_expression(expression: str, field: str) -> re.Pattern[str]:
    """Compiles a user's regular expression.

    Raises:
        ValueError: the expression is not valid; the message says where it breaks.
    """
    try:
        return re.compile(expression)
    except re.error as error:
        raise ValueError(f"{field}: {expression!r} is not a regular expression: {error}") from error


def _with_parameters(modules: dict[str, nn.Module]) -> list[str]:
    return [name for name, module in modules.items() if any(True for _ in module.parameters(recurse=False))]


def _names(candidates: Candidates) -> str:
    return _listed(name for name, place in candidates.whole.items() if refusal(place) is None)


def _leaves(names: Iterable[str]) -> list[str]:
    leaves = (name.rpartition(".")[2] for name in names)
    return list(dict.fromkeys(leaf for leaf in leaves if not leaf.isdigit()))


def _listed(names: Iterable[str]) -> str:
    leaves = _leaves(names)
    return (
        ", ".join(leaves[:12]) + (", ..." if len(leaves) > 12 else "") if leaves else "no linear or convolution layer"
    )


def _suggestion(pattern: str, names: Iterable[str]) -> str:
    names = list(names)
    close = get_close_matches(pattern.rpartition(".")[2], _leaves(names), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}this model has {_listed(names)}"
