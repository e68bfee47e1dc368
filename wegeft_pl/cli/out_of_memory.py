"""What to do when memory runs out: the largest parts by the plan of this very recipe, and the next lever to pull."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer

from wegeft_pl.accounting import MemoryEstimate, bytes_text
from wegeft_pl.cli.failure import TRACEBACK_VARIABLE
from wegeft_pl.cli.plan_batch import batch_shape
from wegeft_pl.cli.plan_devices import device_count, is_sharded_recipe

#: Where a run was: the parts that a lever can shrink depend on it.
Stage = Literal["load", "train", "evaluate"]

#: The CPU allocator of torch says so in a plain RuntimeError; the words differ by system.
_CPU = re.compile(r"DefaultCPUAllocator: (can't allocate memory|not enough memory)")
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ ?\w+)")
_CAPACITY = re.compile(r"total capacity of ([\d.]+ \w+)")
_SHOWN_PARTS = 3


class MemoryRanOutError(Exception):
    """Memory ran out; the text names parts and a lever, in a few lines."""


@dataclass(frozen=True)
class Recipe:
    """The sections that decide how much memory a run takes, as plain settings.

    Args:
        model: the options of the task.
        data: the options of the data module.
        trainer: the trainer's section.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error says that a device or the host has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU.search(str(error)) is not None


def explain(error: BaseException, recipe: Recipe, stage: Stage, where: str, estimate: Callable[[], Plan]) -> str:
    """Makes the message.

    Args:
        error: for what was asked for, and what the device has.
        recipe: what the run was told.
        stage: what the run was doing.
        where: device and step, such as ``cuda:0 at step 3``.
        estimate: counts on the meta device.

    Returns:
        Lines: what happened, the parts, the lever.
    """
    text = str(error)
    asked, capacity = _ASKED.search(text), _CAPACITY.search(text)
    facts = [f"asked for {_size(asked[1])} more"] if asked else []
    facts += [f"the device has {capacity[1]}"] if capacity else []
    lines = [f"out of memory on {where}" + (f" ({', '.join(facts)})" if facts else "")]
    plan = None
    with contextlib.suppress(Exception):  # whatever fails here would hide the one thing that the user has to know
        plan = estimate()
    if plan is not None:
        lines.append(_parts(plan, recipe, stage))
    lines.append(f"next: {next_lever(recipe, stage, None if plan is None else plan.base_dtype)}")
    lines.append(f"({TRACEBACK_VARIABLE}=1 shows the device's own message)")
    return "\n".join(lines)


@dataclass(frozen=True)
class Plan:
    """What is known of the recipe's memory.

    Args:
        estimate: of one device.
        base_dtype: of the base's weights.
    """

    estimate: MemoryEstimate
    base_dtype: torch.dtype


def next_lever(recipe: Recipe, stage: Stage, base_dtype: torch.dtype | None = None) -> str:
    """The first setting, in the order of their cost, that takes less memory and that the recipe does not have yet.

    Args:
        recipe: options that a task or data module does not have are passed over.
        stage: activations are no matter while the model is loaded, and the backward pass none in evaluation.
        base_dtype: of the base's weights; None where it is not known.

    Returns:
        Options of the command line, or what else is left to do.
    """
    model, data, trainer = recipe.model, recipe.data, recipe.trainer
    if stage == "train":
        if model.get("gradient_checkpointing") is False:
            return "--model.gradient_checkpointing true"
        samples = batch_shape(data)[0]
        if samples > 1:
            parts = next(n for n in range(2, samples + 1) if samples % n == 0)
            steps = parts * int(trainer.get("accumulate_grad_batches") or 1)
            return f"--data.batch_size {samples // parts} --trainer.accumulate_grad_batches {steps}"
        if model.get("activation_offload") is False:
            return "--model.activation_offload true"
    if stage == "evaluate" and "eval_batch_size" in data:
        samples = int(data["eval_batch_size"] or data.get("batch_size") or 1)
        if samples > 1:
            return f"--data.eval_batch_size {samples // 2}"
    half = base_dtype in (torch.bfloat16, torch.float16) or model.get("dtype") in ("bfloat16", "float16")
    if "dtype" in model and not half:
        return "--model.dtype bfloat16"
    sharded = is_sharded_recipe(trainer)
    if "quantize" in model and model["quantize"] is None and not sharded:
        return "--model.quantize bnb-nf4"
    if sharded:
        return f"more than {device_count(trainer)} devices (--trainer.devices, --trainer.num_nodes)"
    if model.get("quantize") is None:
        return f"--trainer.strategy wegeft_fsdp --trainer.devices {2 * device_count(trainer)}, or as many as there are"
    return "a shorter --data.max_length, a smaller base, or a device with more memory"


def _parts(plan: Plan, recipe: Recipe, stage: Stage) -> str:
    shards = device_count(recipe.trainer) if is_sharded_recipe(recipe.trainer) else 1
    estimate = plan.estimate
    parts = {
        "weights": -(-estimate.weights // shards),
        "gradients": -(-estimate.gradients // shards),
        "optimizer": -(-estimate.optimizer // shards),
        "activations": estimate.activations or 0,
    }
    if stage == "evaluate":
        parts = {"weights": parts["weights"]}
    largest = sorted(parts.items(), key=lambda part: part[1], reverse=True)
    shown = ", ".join(f"{name} {bytes_text(size)}" for name, size in largest[:_SHOWN_PARTS] if size)
    samples, tokens = batch_shape(recipe.data)
    batch = "" if tokens is None or stage != "train" else f" for {samples} x {tokens} tokens a micro-batch"
    return f"plan: {shown}{batch}"


def _size(text: str) -> str:
    """Bytes as CUDA writes them, whoever wrote them: the CPU allocator gives a plain number."""
    number, unit = re.fullmatch(r"([\d.]+) ?(\w+)", text).groups()  # type: ignore[union-attr]  # _ASKED has this form
    return bytes_text(int(number)) if unit == "bytes" else text


def batch_loops(trainer: Trainer) -> list[Any]:
    """The loops of a trainer that count batches."""
    fit = trainer.fit_loop.epoch_loop
    return [fit, fit.val_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop]
