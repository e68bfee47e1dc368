"""Weights of a sharded model, each process reading its own rows from the safetensors files and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from wegeft_pl.adapter.owner import OWNER
from wegeft_pl.adapter.sharded import from_local, rows_of
from wegeft_pl.adapter.weight_files import TensorEntry, read_rows


@dataclass(frozen=True)
class WeightSource:
    """Where a base's weights lie, and what is to be done once they are read.

    Args:
        files: what the files hold, by the names in them.
        prefix: see :func:`match_weights`.
        finish: called with the model and the device of its buffers, to fill those that are in no file.
    """

    files: Mapping[str, TensorEntry]
    prefix: str
    finish: Callable[[nn.Module, torch.device], None]


def load_own_rows(
    model: nn.Module, entries: Mapping[str, TensorEntry], device: torch.device, offloaded: bool = False
) -> None:
    """Gives every parameter and saved buffer on the meta device its values; the other tensors are left as they are.

    Args:
        model: sharded, or not at all; an adapter may be in place.
        entries: for each such name; see :func:`match_weights`.
        device: where tensors that are not sharded go.
        offloaded: shards stay in host memory; on the meta device nothing else says so.

    Raises:
        ValueError: a file has become shorter meanwhile.
    """
    values: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}  # by the identity of the model's tensor, so that tied ones stay tied
    for name, tensor in model.state_dict(keep_vars=True).items():
        if OWNER in name.split(".") or not tensor.is_meta:
            continue
        if id(tensor) not in made:
            value = _read(entries[name], tensor, device, offloaded)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if is_parameter else value
        values[name] = made[id(tensor)]
    model.load_state_dict(values, strict=False, assign=True)


def _read(entry: TensorEntry, tensor: Tensor, device: torch.device, offloaded: bool) -> Tensor:
    rows = rows_of(tensor)
    part = read_rows(entry, rows.first, rows.last).to(tensor.dtype)
    if not isinstance(tensor, DTensor):
        return part.to(device)
    made = from_local(part, tensor)
    return made.cpu() if offloaded else made  # one by one: all together they may not fit the device
