"""The way back from a merge: what the model held before, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wegeft_pl.adapter.groups import OWNER

if TYPE_CHECKING:
    from wegeft_pl.adapter.adapter import Adapter


@dataclass(frozen=True)
class Kept:
    """Values that a merge overwrites, and dtypes that it converts.

    Args:
        values: copies on the CPU, by parameter name: edited layers' weights and biases, and ``also_train``.
        dtypes: every parameter's and buffer's dtype by name; a conversion to a wider dtype is undone exactly.
        surroundings: the dtype that each module of ``also_train`` computed among.
    """

    values: dict[str, Tensor]
    dtypes: dict[str, torch.dtype]
    surroundings: list[torch.dtype]

    @classmethod
    def of(cls, adapter: Adapter, everything: bool) -> Kept:
        """Copies what a merge of this adapter will change.

        Args:
            adapter: attached.
            everything: the whole model will be converted, so all dtypes are noted.
        """
        tensors = {
            f"{site.name}.{name}": parameter
            for site in adapter.sites
            for name, parameter in site.module.named_parameters(recurse=False)
        }
        tensors |= {name: parameter for module in adapter.trained for name, parameter in module.named_parameters()}
        model = adapter.model
        every = [*model.named_parameters(), *model.named_buffers()] if everything else []
        return cls(
            {name: parameter.detach().cpu().clone() for name, parameter in tensors.items()},
            {name: tensor.dtype for name, tensor in every},
            [module.surroundings for module in adapter.trained],
        )

    def restore(self, adapter: Adapter) -> None:
        """Puts everything back, bit for bit."""
        model = adapter.model
        buffers = dict(model.named_buffers())
        for name, dtype in self.dtypes.items():
            # The generators are in no state dict of a merged model; their dtype never changed.
            tensor = buffers.get(name)
            if tensor is None and OWNER not in name.split("."):
                tensor = model.get_parameter(name)
            if tensor is not None:
                tensor.data = tensor.data.to(dtype)
        for name, value in self.values.items():
            parameter = model.get_parameter(name)
            parameter.data = value.to(parameter.device)
        for module, dtype in zip(adapter.trained, self.surroundings, strict=True):
            module.surroundings = dtype
