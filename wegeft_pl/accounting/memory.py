"""Bytes of weights, gradients, optimiser and activations: what a run will take, and what tensors take now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wegeft_pl.accounting.activations import activation_bytes
from wegeft_pl.accounting.live import identity
from wegeft_pl.adapter.quantized import quantization_of, stored_bytes
from wegeft_pl.adapter.sharded import local


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device, by part.

    Args:
        weights: parameters and buffers.
        gradients: of trained parameters.
        optimizer: the optimiser's state after its first step.
        activations: the most that one forward and backward pass holds beside the other parts; None where no loss was
            given to count it with.
        gathered: what a sharded strategy holds whole for a moment; None where weights are not shared.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int | None
    gathered: int | None = None

    @property
    def peak(self) -> int | None:
        """All parts together; None while one of them is unknown."""
        if self.activations is None:
            return None
        return self.weights + self.gradients + self.optimizer + self.activations + (self.gathered or 0)

    def to_dict(self) -> dict[str, int | None]:
        """The words of run.json and ``plan --json``; ``gathered`` is among them where weights are shared."""
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations,
            **({} if self.gathered is None else {"gathered": self.gathered}),
            "peak": self.peak,
        }


def estimate_memory(
    module: nn.Module,
    optimizer: Callable[[list[nn.Parameter]], Optimizer],
    loss: Callable[[], Tensor] | None = None,
    *,
    shards: int = 1,
) -> MemoryEstimate:
    """Estimates the memory of training on one device; loads and computes nothing, and works on the meta device.

    Args:
        module: the backbone with its adapter, or the task that holds both.
        optimizer: makes the optimiser from parameters.
        loss: see :func:`activation_bytes`; one micro-batch of one device.
        shards: over how many devices a sharded strategy spreads weights, gradients and optimiser; 1 for a single
            device and for plain data parallelism, where every device holds all of them. What is gathered for a moment
            is not counted here: it depends on the units, see :func:`wegeft_pl.accounting.communication.gathered_bytes`.

    Returns:
        The estimate. Not in it: the CUDA context, kernels' workspaces, buffers of collectives, fragmentation.

    Raises:
        ValueError: ``shards`` is less than 1.
    """
    if shards < 1:
        raise ValueError(f"shards must be at least 1, got {shards}; it is the number of devices that share the weights")
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return MemoryEstimate(
        weights=-(-weight_bytes(module) // shards),
        gradients=-(-sum(parameter.nbytes for parameter in trained) // shards),
        optimizer=-(-optimizer_bytes(optimizer, trained) // shards),
        activations=None if loss is None else activation_bytes(module, loss),
    )


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers, memory that several of them share counted once; sharded, this process's.

    A quantised weight counts with its scales; on the meta device it counts as what it will take once it is loaded.
    """
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    quantised = {id(parameter): parameter for parameter in module.parameters() if quantization_of(parameter)}
    plain = [tensor for tensor in tensors if id(tensor) not in quantised]
    return _distinct_bytes(plain) + sum(map(stored_bytes, quantised.values()))


def gradient_bytes(module: nn.Module) -> int:
    """Bytes of the gradients that exist now; sharded, this process's."""
    return sum(local(parameter.grad).nbytes for parameter in module.parameters() if parameter.grad is not None)


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of an optimiser's state as it is now, zero before the first step; sharded, this process's."""
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return _distinct_bytes(tensors)


def optimizer_bytes(optimizer: Callable[[list[nn.Parameter]], Optimizer], parameters: Iterable[nn.Parameter]) -> int:
    """Counts the state that an optimiser will hold, by letting it take one step on zeros of each distinct shape.

    Args:
        optimizer: makes the optimiser from parameters.
        parameters: what it will train; only shapes and dtypes are read.

    Example:
        >>> optimizer_bytes(torch.optim.SGD, [nn.Parameter(torch.zeros(3, 4))])
        0
        >>> optimizer_bytes(torch.optim.AdamW, [nn.Parameter(torch.zeros(3, 4))])  # two moments, one step count
        100
    """
    sizes: dict[tuple[torch.Size, torch.dtype], int] = {}
    total = 0
    for parameter in parameters:
        key = (parameter.shape, parameter.dtype)
        if key not in sizes:
            # On the CPU: fused implementations and factored ones refuse the meta device.
            twin = nn.Parameter(torch.zeros(parameter.shape, dtype=parameter.dtype))
            twin.grad = torch.zeros_like(twin)
            trial = optimizer([twin])
            trial.step()
            sizes[key] = state_bytes(trial)
        total += sizes[key]
    return total


def _distinct_bytes(tensors: Iterable[Tensor]) -> int:
    # Held while they are counted: a sharded tensor's part is a new object each time it is asked for.
    parts = [local(tensor) for tensor in tensors]
    storages = {identity(part): part.untyped_storage().nbytes() for part in parts}
    return sum(storages.values())
