"""Everything in a model that can be edited: layers, stacked experts, attention's own matrices, and their parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn

from wegeft_pl.adapter.fused import part_sizes, parts_at
from wegeft_pl.adapter.layout import Layout, layout_of, layout_of_stack
from wegeft_pl.adapter.part import Part
from wegeft_pl.adapter.place import Place
from wegeft_pl.adapter.readers import reader_of, reshapes_output, transforms_weight
from wegeft_pl.adapter.stacked import stack_of

#: nn.MultiheadAttention's own matrices: its fused projection, or three of unequal widths. One bias serves all.
ATTENTION = {"in_proj_weight": "qkv", "q_proj_weight": "q", "k_proj_weight": "k", "v_proj_weight": "v"}


@dataclass(frozen=True)
class Candidates:
    """What targets can name in a model.

    Args:
        whole: whole weights by name, in the model's order.
        parts: the parts of each whole weight that has some, by the part's name.
    """

    whole: dict[str, Place]
    parts: dict[str, dict[str, Place]]

    @classmethod
    def of(cls, model: nn.Module, fused: Mapping[str, Mapping[str, int]]) -> Candidates:
        """Lists a model's.

        Args:
            model: the backbone.
            fused: sizes of the parts of layers that the user describes, by trailing parts of the layer's name.

        Raises:
            ValueError: an entry of ``fused`` names no layer, or its sizes do not fit one.
        """
        whole = {place.name: place for place in _places(model)}
        parts, used = {}, set()
        for name, place in whole.items():
            own = next((key for key in fused if ends_with(name, key)), None)
            if own is not None:
                used.add(own)
                sizes: Mapping[str, int] | None = fused[own]
            else:
                sizes = _sizes(model, place)
            if sizes is not None and place.layout.groups == 1:
                parts[name] = _parts(place, sizes)
        for key in fused:
            if key not in used:
                raise ValueError(f"fused: no layer ends in {key!r}; name the fused layer, such as 'attn.qkv'")
        return cls(whole, parts)

    def all_parts(self) -> dict[str, Place]:
        """Every part by its name."""
        return {name: place for parts in self.parts.values() for name, place in parts.items()}


def ends_with(name: str, pattern: str) -> bool:
    """Whether a name is the pattern, or ends in it after a dot.

    Example:
        >>> ends_with("blocks.0.attn.qkv", "attn.qkv"), ends_with("blocks.0.attn.qkv", "kv")
        (True, False)
    """
    return name == pattern or name.endswith("." + pattern)


def refusal(place: Place) -> str | None:
    """Why a weight that has the right shape cannot be edited, or None where it can."""
    reason = transforms_weight(place.module)
    if reason is not None:
        return f"{reason}, so an edit could not be merged into it"
    if place.parameter not in dict(place.module.named_parameters(recurse=False)):
        return f"its {place.parameter} is computed from other parameters, so an edit could not be merged into it"
    return None


def _places(model: nn.Module) -> Iterator[Place]:
    for name, module in model.named_modules():
        if not name:
            continue
        layout = layout_of(module)
        if layout is not None:
            returns = reshapes_output(module) is None
            reader = _reader(model, name, "weight")
            yield Place(name, name, module, "weight", layout, reader, returns_product=returns)
        elif isinstance(module, nn.MultiheadAttention):
            yield from _attention(model, name, module)
        else:
            yield from _stacks(name, module)


def _attention(model: nn.Module, name: str, module: nn.MultiheadAttention) -> Iterator[Place]:
    for parameter, weight in module.named_parameters(recurse=False):
        if parameter in ATTENTION:
            layout = Layout("linear", weight.shape[1], weight.shape[0])
            yield Place(f"{name}.{parameter}", name, module, parameter, layout, module, False, "in_proj_bias")


def _stacks(name: str, module: nn.Module) -> Iterator[Place]:
    for parameter, weight in module.named_parameters(recurse=False):
        if weight.ndim == 3 and (stack := stack_of(module, parameter)) is not None:
            reads_input = stack.reads == "input"
            layout = layout_of_stack(stack)
            yield Place(f"{name}.{parameter}", name, module, parameter, layout, None, reads_input, stack.bias or "")


def _reader(model: nn.Module, layer: str, parameter: str) -> nn.Module | None:
    reader = reader_of(model, layer, parameter)
    return None if reader is None else model.get_submodule(reader)


def _sizes(model: nn.Module, place: Place) -> Mapping[str, int] | None:
    if isinstance(place.module, nn.MultiheadAttention):
        third = place.layout.out_features // 3
        return {"q": third, "k": third, "v": third} if place.parameter == "in_proj_weight" else None
    if place.parameter != "weight":
        return part_sizes(place.module, place.parameter)
    return parts_at(model, place.layer)


def _parts(place: Place, sizes: Mapping[str, int]) -> dict[str, Place]:
    parts = Part.named(sizes, place.layout.out_features, place.name)
    return {
        f"{place.name}.{name}": replace(place, name=f"{place.name}.{name}", layout=place.layout.of_part(part))
        for name, part in parts.items()
    }
