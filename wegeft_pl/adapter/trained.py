"""Modules trained in full beside the adapter: norms, heads, embeddings, what PEFT calls ``modules_to_save``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle


@dataclass(eq=False)
class TrainedModule:
    """One module of the backbone whose own parameters are trained, in float32 whatever the base's dtype.

    A base in bfloat16 keeps computing in bfloat16 around it: inputs are cast to float32 on the way in and outputs back
    on the way out. Updates of AdamW are mostly smaller than half a bfloat16 step and would be lost without this.

    Args:
        name: the module's name in the backbone.
        module: the module; all parameters below it are trained.
        users: modules that hold one of these parameters directly; with tied weights these lie elsewhere too.
        surroundings: the base's dtype, which its outputs are cast to.
    """

    name: str
    module: nn.Module
    users: list[nn.Module]
    surroundings: torch.dtype

    @classmethod
    def prepare(cls, model: nn.Module, name: str) -> TrainedModule:
        """Unfreezes the module's parameters and holds them in float32 (or in float64, for a float64 base)."""
        module = model.get_submodule(name)
        owned = {id(parameter) for parameter in module.parameters()}
        users = [m for m in model.modules() if any(id(p) in owned for p in m.parameters(recurse=False))]
        trained = cls(name, module, users, next(module.parameters()).dtype)
        trained.widen()
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        return trained

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The trained parameters under their names in the backbone."""
        yield from self.module.named_parameters(prefix=self.name)

    def hook(self) -> list[RemovableHandle]:
        """Installs the casts where the base is narrower than float32; returns the handles."""
        if self.surroundings == _wide(self.surroundings):
            return []
        handles = []
        for user in self.users:
            handles.append(user.register_forward_pre_hook(CastInputs(_wide(self.surroundings))))
            handles.append(user.register_forward_hook(CastOutput(self)))
        return handles

    def widen(self) -> None:
        """Holds the parameters in the dtype that they train in."""
        for parameter in self.module.parameters():
            parameter.data = parameter.data.to(_wide(self.surroundings))

    def round(self) -> None:
        """Gives the parameters the dtype of their surroundings, values as trained."""
        for parameter in self.module.parameters():
            parameter.data = parameter.data.to(self.surroundings)

    def freeze(self) -> None:
        """Makes the module part of the frozen base again, values as trained."""
        self.round()
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)


class CastInputs:
    """Forward pre-hook that casts floating-point inputs."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Casts every floating-point tensor among the arguments."""
        return tuple(_cast(args, self.dtype))


class CastOutput:
    """Forward hook that casts a floating-point output to the dtype of the trained module's surroundings."""

    def __init__(self, trained: TrainedModule) -> None:
        self.trained = trained

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Casts every floating-point tensor of the output."""
        return _cast(output, self.trained.surroundings)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    def to_dtype(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return tree_map_only(Tensor, to_dtype, tree)
