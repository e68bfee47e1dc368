"""Activations in host memory between the forward and the backward pass.

What autograd saves of a batch is copied to pinned host memory and brought back when the backward pass asks for it.
Weights that autograd saves (a frozen layer needs its own weight for the gradient of its input) stay where they are.

Shapes: B batch, T tokens.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

#: Smaller tensors cost more to move than they free.
SMALLEST = 1024


class ActivationOffload:
    """Moves the activations of forward passes that run inside :meth:`around`.

    With gradient checkpointing the blocks' inputs are all that autograd saves, so they are all that travels: the case
    this is made for. On CUDA the copies run on a stream of their own beside the computation. On a CPU the copy is
    made as well, which saves nothing, so that the same code can be tested there; on the meta device only the bytes go.

    Args:
        module: holds the weights that must stay.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        #: Bytes moved to the host in the last pass.
        self.moved = 0

    @contextmanager
    def around(self, samples: int, tokens: int) -> Iterator[None]:
        """Saves what is computed inside on the host.

        Args:
            samples: B of the batch.
            tokens: T of the batch, by which activations are told from everything else.
        """
        self.moved = 0
        shapes = {tuple(parameter.shape) for parameter in self._module.parameters()}
        shapes |= {shape[::-1] for shape in shapes}  # matrix products save transposed weights
        # One tensor is saved by every operation that reads it, and moved once.
        known: dict[tuple[object, ...], Away] = {}

        def pack(tensor: Tensor) -> Tensor | Away:
            if not _is_activation(tensor, samples, tokens) or (
                tuple(tensor.shape) in shapes and self._is_weight(tensor)
            ):
                return tensor
            storage = tensor.untyped_storage()
            key = (
                storage._cdata,
                tensor.storage_offset(),
                tensor.shape,
                tensor.stride(),
                tensor.dtype,
                tensor._version,
            )
            if key not in known:
                known[key] = self._send(tensor)
                # Another tensor's memory may get the same address later in the pass.
                weakref.finalize(storage, known.pop, key, None)
            return known[key]

        with torch.autograd.graph.saved_tensors_hooks(pack, self._fetch):
            yield
        known.clear()

    def _is_weight(self, tensor: Tensor) -> bool:
        # Asked now: sharded weights have memory of their own while their block computes.
        key = tensor.untyped_storage()._cdata
        weights = (parameter for parameter in self._module.parameters() if not isinstance(parameter, DTensor))
        return any(weight.untyped_storage()._cdata == key for weight in weights)

    def _send(self, tensor: Tensor) -> Away:
        self.moved += tensor.nbytes
        if tensor.device.type == "cuda":
            return self._send_from_cuda(tensor)
        return Away(to_host(tensor), tensor.device)

    def _send_from_cuda(self, tensor: Tensor) -> Away:
        device, host = tensor.device, torch.empty_like(tensor, device="cpu", pin_memory=True)
        stream = self._stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))  # the values must have been computed
        with torch.cuda.stream(stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(stream)  # its memory is not given away before the copy is done
        return Away(lambda: host.to(device, non_blocking=True), device)

    def _fetch(self, saved: Tensor | Away) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if saved.device.type != "cuda":
            return saved.back()
        stream, current = self._stream(saved.device), torch.cuda.current_stream(saved.device)
        with torch.cuda.stream(stream):  # behind the copy to the host, which ran on the same stream
            tensor = saved.back()
        current.wait_stream(stream)
        tensor.record_stream(current)
        return tensor

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]


@dataclass(frozen=True)
class Away:
    """A tensor that is on the host.

    Args:
        back: makes it again on its device.
        device: where it came from.
    """

    back: Callable[[], Tensor]
    device: torch.device


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Copies a tensor that is not on CUDA, and returns how to get it back."""
    if tensor.is_meta:
        shape, stride, dtype = tensor.shape, tensor.stride(), tensor.dtype
        return lambda: torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    copied = tensor.detach().clone()
    return lambda: copied


def _is_activation(tensor: Tensor, samples: int, tokens: int) -> bool:
    """True for (B, T, ...), (B, heads, T, ...) and the (B T, ...) that matrix products make of them."""
    if not tensor.is_floating_point() or tensor.nbytes < SMALLEST or tensor.ndim < 2:
        return False
    return tensor.shape[0] == samples * tokens or (tensor.shape[0] == samples and tokens in tensor.shape[1:])
