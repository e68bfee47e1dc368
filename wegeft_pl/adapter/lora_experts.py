"""The exact LoRA of stacked experts, as PEFT keeps it for ``target_parameters``.

PEFT holds the factors of all experts in one pair: A (E r, Y) with expert after expert, and B (X, r E) with the experts
innermost, and adds B_e A_e to the stored (X, Y) of expert e; X are output features unless the module says that its
stacks are transposed. Every further parameter of a module wraps the wrapper of the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wegeft_pl.adapter.sites import Site

Factors = tuple[Tensor, Tensor]


def expert_tensors(stacks: Mapping[str, Factors], sites: Mapping[str, list[Site]], rank: int) -> dict[str, Tensor]:
    """The file's tensors for all stacks of a model.

    Args:
        stacks: left (E, O, r) and right (E, r, I) of each stack by its name in the model, float64.
        sites: the sites of each stack.
        rank: what r is filled up to with zeros.

    Returns:
        float32 tensors by PEFT's names.
    """
    tensors = {}
    for name, (left, right) in stacks.items():
        place = sites[name][0].place
        left, right = _widened(left, rank, 2), _widened(right, rank, 1)
        # PEFT's own rule: what the module says of itself, and else (E, O, I).
        if place.layout.kind == "stack_transposed" and not vars(place.module).get("is_transposed", False):
            left, right = right.transpose(1, 2), left.transpose(1, 2)
        own = [parameter for parameter, _ in place.module.named_parameters(recurse=False)]
        wrapped = [parameter for parameter in own if f"{place.layer}.{parameter}" in stacks]
        depth = len(wrapped) - 1 - wrapped.index(place.parameter)
        prefix = f"base_model.model.{place.layer}." + "base_layer." * depth
        tensors[f"{prefix}lora_A.weight"] = right.flatten(0, 1).float().contiguous()
        tensors[f"{prefix}lora_B.weight"] = left.permute(1, 2, 0).flatten(1).float().contiguous()
    return tensors


def stack_factors(sites: list[Site]) -> Factors:
    """left (E, O, r) and right (E, r, I) of a whole stack in float64, the parts side by side.

    Raises:
        ValueError: the stack's bias moves, which PEFT has no place for.
    """
    lefts, rights = [], []
    for site in sites:
        if site.bias_change() is not None:
            raise ValueError(
                f"{site.name}: the output side moves the experts' bias, which PEFT cannot hold; merge it instead"
            )
        left, right = site.factors(torch.float64)
        layout = site.layout
        if site.config.side == "input":  # left (E O, R), right (R, I)
            left = left.view(layout.experts, layout.out_features, -1)
            right = right.expand(layout.experts, -1, -1)
        else:  # left (O, R), right (R, E I)
            left = left.expand(layout.experts, -1, -1)
            right = right.view(-1, layout.experts, layout.in_features).transpose(0, 1)
        lefts.append(left if layout.part is None else layout.part.place(left, 1))
        rights.append(right)
    return torch.cat(lefts, dim=2), torch.cat(rights, dim=1)


def _widened(factor: Tensor, rank: int, axis: int) -> Tensor:
    missing = rank - factor.shape[axis]
    return nn.functional.pad(factor, (0, missing) if axis == 2 else (0, 0, 0, missing))
