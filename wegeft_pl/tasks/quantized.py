"""Runs on a quantised base: what they cannot do, said before the base is loaded, and what is different in them."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wegeft_pl.adapter.quantized import quantization_of


def check_quantised_run(scheme: str | None, sharded: bool, stage: str) -> None:
    """Refuses what would only fail later, or in the backward pass.

    Args:
        scheme: how the base is to be quantised, or None.
        sharded: the strategy spreads the backbone's weights over processes.
        stage: Lightning's: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.

    Raises:
        ValueError: quantised weights would be sharded, or the scheme has no backward pass and the run trains.
    """
    if scheme is not None and sharded:
        raise ValueError(
            f"quantize: {scheme} weights cannot be sharded; use --trainer.strategy ddp, where every device holds all "
            "of them, or leave quantize out"
        )
    if scheme == "torchao-int4" and stage == "fit":
        raise ValueError(
            "quantize: torchao-int4 has kernels for scoring only, no gradient passes through them; train with bnb-nf4"
        )


def leave_out_of_ddp(task: nn.Module) -> None:
    """Keeps quantised weights out of what data parallelism sends from the first process to all others at the start.

    They are read from the same files everywhere, and torchao's cannot be flattened into the buffers that are sent.

    Args:
        task: what is going to be wrapped, its backbone in place.
    """
    names = [name for name, parameter in task.named_parameters() if quantization_of(parameter) is not None]
    if names:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, names)
