"""Reading weights that are spread over processes: rows of one's own, whole tensors, and the state they must be in.

FSDP2 replaces each parameter by a DTensor whose local part is this process's rows of the first axis. While a layer
computes, the parameter is whole and a plain tensor for a moment; after an evaluation the root's stay so. Whoever reads
or writes parameters outside a forward pass calls :func:`reshard` first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def reshard(module: nn.Module) -> None:
    """Puts every FSDP2 module below ``module`` back into its sharded state; others are left as they are."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 spreads this module's weights over processes."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def class_of(module: nn.Module) -> type[nn.Module]:
    """The class that a module was written as: FSDP2 gives a sharded one a subclass made for it (``FSDPLlamaModel``)."""
    return type(module).__mro__[2] if isinstance(module, FSDPModule) else type(module)


def whole(tensor: Tensor) -> Tensor:
    """Gathers a sharded tensor; a collective that every process of its mesh must call. Others return themselves."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory; the tensor itself where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@dataclass(frozen=True)
class Rows:
    """Which rows of the first axis are here, and whether this process is the one that speaks for them.

    Args:
        first: index of the first row.
        last: index behind the last row; equal to ``first`` where a tensor has fewer rows than there are processes.
        is_first_copy: False on the processes of hybrid sharding that hold a copy of what another one holds.
    """

    first: int
    last: int
    is_first_copy: bool


def rows_of(tensor: Tensor) -> Rows:
    """Finds out which rows of a parameter this process holds: all of them where it is not sharded.

    A tensor without axes counts as one row.
    """
    if not isinstance(tensor, DTensor):
        return Rows(0, tensor.shape[0] if tensor.ndim else 1, True)
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None
    copies = [index for index, placement in zip(coordinate, tensor.placements, strict=True) if placement.is_replicate()]
    first = offset[0] if shape[0] else 0
    return Rows(first, first + shape[0], not any(copies))


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Cuts a whole tensor as another one is cut; no communication, every process has the whole value.

    Args:
        value: whole, of ``like``'s shape, on any device.
        like: a parameter; a plain one returns ``value`` itself.

    Returns:
        A DTensor of ``value``'s dtype, its own rows copied, on the device where ``like`` keeps its rows.
    """
    if not isinstance(like, DTensor):
        return value
    rows = rows_of(like)
    part = value[rows.first : rows.last].clone()
    return from_local(part, like)


def from_local(part: Tensor, like: DTensor) -> DTensor:
    """Makes a DTensor of this process's rows, placed as ``like`` is, on the device where ``like`` keeps its rows.

    Args:
        part: the rows, on any device.
        like: a sharded tensor, which may be on the meta device.
    """
    mesh, device = like.device_mesh, like.to_local().device
    made = DTensor.from_local(
        part.to(mesh.device_type), mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    # Weights that are offloaded live on the CPU while their mesh is one of GPUs.
    if device.type == "cpu" and mesh.device_type != "cpu":
        offloaded = made.cpu()
        assert isinstance(offloaded, DTensor)
        return offloaded
    return made


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Adds a plain tensor up over all processes, in place; alone it is left as it is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
    return tensor
