"""Activation checkpointing that runs: in train mode, non-reentrant, seen by the memory that it saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from small_run import SmallData, make_batch, make_task, make_trainer
from torch import Tensor

from wegeft_pl import AdapterConfig
from wegeft_pl.accounting import LiveBytes
from wegeft_pl.accounting.live import identity
from wegeft_pl.tasks import CausalLMTask

CONFIG = AdapterConfig("all-linear", rank=4, alpha=8, zero="psi")


def built(folder: Path, checkpointing: bool) -> CausalLMTask:
    task = make_task(folder, gradient_checkpointing=checkpointing)
    task.use_adapter(CONFIG)
    task.configure_model()
    return task


def peak(task: CausalLMTask, batch: dict[str, Any]) -> int:
    tensors = [value for value in batch.values() if isinstance(value, Tensor)]
    live = LiveBytes([*task.parameters(), *task.buffers(), *tensors])
    for parameter in task.trainable_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: live.leave_out(p.grad))
    with live:
        task.training_loss(batch).backward()
    return live.peak


def test_the_peak_is_lower_in_train_mode_and_the_same_in_eval_mode(llama_folder: Path) -> None:
    batch = make_batch(1, 4, tokens=40)
    peaks = {}
    for mode in (True, False):
        for checkpointing in (True, False):
            task = built(llama_folder, checkpointing)
            assert task.training, "configure_model wakes what from_pretrained left asleep"
            peaks[mode, checkpointing] = peak(task.train(mode), batch)
    assert peaks[True, True] < 0.65 * peaks[True, False]
    # transformers makes the embeddings' output require a gradient, which takes a little more.
    assert peaks[False, False] <= peaks[False, True] < 1.05 * peaks[False, False], "eval mode recomputes nothing"


def test_gradients_are_those_without_and_reach_every_layer(llama_folder: Path) -> None:
    # Reentrant checkpointing gives none behind frozen embeddings: its blocks' inputs need no gradient.
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        task = built(llama_folder, checkpointing)
        found.append(torch.autograd.grad(task.training_loss(make_batch(1, 4)), task.trainable_parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert sum(float(gradient.abs().max()) > 0 for gradient in found[1]) == len(found[1]) / 2, "half start at zero"


class SavedBytes(Callback):
    """Adds up what autograd saves in each training step, parameters left out."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        weights = {identity(parameter) for parameter in pl_module.parameters()}
        seen: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if identity(tensor) not in weights:
                seen[identity(tensor)] = tensor
            return tensor

        self.seen = seen
        self.hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        self.hooks.__enter__()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.hooks.__exit__()
        self.steps.append(sum(tensor.untyped_storage().nbytes() for tensor in self.seen.values()))


def test_it_stays_on_through_a_run_with_validation(llama_folder: Path, tmp_path: Path) -> None:
    steps = {}
    for checkpointing in (False, True):
        recorder = SavedBytes()
        trainer = make_trainer(tmp_path, recorder, num_sanity_val_steps=1, val_check_interval=4)
        trainer.fit(make_task(llama_folder, gradient_checkpointing=checkpointing), datamodule=SmallData())
        steps[checkpointing] = recorder.steps
    assert len(steps[True]) == 8
    assert all(less < 0.5 * full for less, full in zip(steps[True], steps[False], strict=True))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_bfloat16_base_keeps_adapters_and_optimiser_in_float32(
    llama_folder: Path, tmp_path: Path, precision: Any
) -> None:
    task, trainer = make_task(llama_folder, dtype="bfloat16"), make_trainer(tmp_path, precision=precision)
    trainer.fit(task, datamodule=SmallData())
    assert task.adapter is not None
    trained = {id(parameter) for _, parameter in task.adapter.named_parameters()}
    assert {parameter.dtype for parameter in task.trainable_parameters()} == {torch.float32}
    assert {p.dtype for p in task.parameters() if id(p) not in trained} == {torch.bfloat16}
    moments = [tensor for state in trainer.optimizers[0].state.values() for tensor in state.values()]
    assert len(moments) == 3 * len(trained)
    assert {tensor.dtype for tensor in moments} == {torch.float32}
