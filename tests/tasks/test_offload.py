"""Activations in host memory: the same gradients, and the memory that is saved, counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import llama_config
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.accounting import LiveBytes, activation_bytes
from wegeft_pl.backbones import huggingface
from wegeft_pl.tasks import CausalLMTask, offload
from wegeft_pl.tasks.offload import ActivationOffload

SAMPLES, TOKENS = 3, 20


def batch() -> dict[str, Tensor]:
    ids = torch.randint(4, 47, (SAMPLES, TOKENS), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def make_task(device: str = "cpu", layers: int = 5, **fields: Any) -> CausalLMTask:
    """A task around a Llama with a trained adapter, in train mode."""
    torch.manual_seed(0)
    task = CausalLMTask("unused", **fields)
    model = LlamaForCausalLM(llama_config(num_hidden_layers=layers, hidden_size=32, intermediate_size=48))
    if task.gradient_checkpointing:
        huggingface.checkpoint_activations(model)
    adapter = inject(model, AdapterConfig("all-linear", rank=4, alpha=8))
    for parameter in adapter.state_dict().values():
        parameter.copy_(0.2 * torch.randn(parameter.shape))
    task.backbone = model.to(device).train()
    return task


def gradients(task: CausalLMTask) -> list[Tensor]:
    loss = task.training_loss({name: tensor.to(task.device) for name, tensor in batch().items()})
    return list(torch.autograd.grad(loss, task.trainable_parameters()))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_bit_equal(checkpointing: bool) -> None:
    plain = gradients(make_task(gradient_checkpointing=checkpointing))
    moved = gradients(make_task(gradient_checkpointing=checkpointing, activation_offload=True))
    assert max(float(gradient.abs().max()) for gradient in plain) > 0.01
    assert all(torch.equal(a, b) for a, b in zip(plain, moved, strict=True))


def outside(tensor: Tensor) -> Callable[[], Tensor]:
    """A host that LiveBytes does not see, as it would not count host memory beside a device's."""
    copied = np.array(tensor.detach().numpy())
    return lambda: torch.from_numpy(copied).clone()


def peak(task: CausalLMTask, data: dict[str, Tensor]) -> int:
    live = LiveBytes([*task.parameters(), *task.buffers(), *data.values()])
    for parameter in task.trainable_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: live.leave_out(p.grad))
    with live:
        task.training_loss(data).backward()
    return live.peak


HIDDEN = SAMPLES * TOKENS * 32 * 4


def growth(**fields: Any) -> float:
    """By how many bytes the peak beside the weights grows with each further layer."""
    four, twelve = (peak(make_task(layers=layers, **fields), batch()) for layers in (4, 12))
    return (twelve - four) / 8


@pytest.mark.parametrize(("checkpointing", "least"), [(False, 10 * HIDDEN), (True, HIDDEN)])
def test_the_peak_beside_the_weights_does_not_grow_with_depth(
    monkeypatch: pytest.MonkeyPatch, checkpointing: bool, least: int
) -> None:
    monkeypatch.setattr(offload, "to_host", outside)
    kept = growth(gradient_checkpointing=checkpointing)
    assert kept >= least
    # Without checkpointing there are tensors of rank width too small to move.
    assert growth(gradient_checkpointing=checkpointing, activation_offload=True) < 0.1 * kept


def test_with_checkpointing_only_the_inputs_of_blocks_travel() -> None:
    task = make_task(gradient_checkpointing=True)
    moving = ActivationOffload(task.model)
    with moving.around(SAMPLES, TOKENS):
        task.training_loss(batch())
    # Five blocks' inputs, and what the last norm and the head keep of the hidden states.
    assert 5 * HIDDEN <= moving.moved <= 8 * HIDDEN


def test_a_tensor_that_several_operations_save_travels_once() -> None:
    module, x = nn.Linear(64, 64), torch.randn(2, 8, 64, requires_grad=True)
    moving = ActivationOffload(module)
    with moving.around(2, 8):
        y = x * 1
        loss = (y * y * y).sum() + (y.sin() * y.cos()).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient, 3 * x**2 + torch.cos(2 * x))
    # y, y * y, sin y, cos y: nine saved tensors, four different ones.
    assert moving.moved == 4 * x.nbytes


def test_the_memory_of_a_freed_tensor_is_not_taken_for_the_tensor() -> None:
    x, wanted = torch.randn(2, 8, 64, requires_grad=True), 0.0
    total = torch.zeros(())
    with ActivationOffload(nn.Linear(2, 2)).around(2, 8):
        for factor in range(1, 6):
            total = total + ((x * factor).square()).sum()  # x * factor is freed, its memory used again
            wanted += 2 * factor**2
    (gradient,) = torch.autograd.grad(total, x)
    torch.testing.assert_close(gradient, wanted * x)


def test_weights_stay_though_their_shape_is_that_of_a_batch() -> None:
    # B T = 16 rows, as the weight has.
    layer, x = nn.Linear(64, 16, bias=False).requires_grad_(False), torch.randn(2, 8, 64, requires_grad=True)
    moving = ActivationOffload(layer)
    with moving.around(2, 8):
        loss = torch.nn.functional.linear(x.view(16, 64), layer.weight).sum()
    assert moving.moved == 0
    loss.backward()


def test_an_activation_of_a_weights_shape_travels() -> None:
    layer, x = nn.Linear(64, 16, bias=False), torch.randn(16, 64, requires_grad=True)
    moving = ActivationOffload(layer)
    with moving.around(2, 8):
        y = x * 1
        (y * y).sum()
    assert moving.moved == y.nbytes


def test_nothing_is_moved_where_nothing_is_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "to_host", None)  # would raise
    task = make_task(activation_offload=True)
    with torch.no_grad():
        loss, _ = task.loss(batch())
    assert loss.isfinite()


@pytest.mark.slow
def test_plan_counts_what_stays_on_the_device() -> None:
    def growth(**fields: Any) -> float:
        tasks = [make_task(layers=layers, gradient_checkpointing=True, **fields) for layers in (4, 12)]
        four, twelve = (activation_bytes(task, lambda task=task: task.training_loss(batch())) for task in tasks)
        return (twelve - four) / 8

    assert growth() == HIDDEN
    assert growth(activation_offload=True) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_on_cuda_gradients_are_equal_and_the_peak_is_lower(checkpointing: bool) -> None:
    found = {}
    for moving in (False, True):
        task = make_task("cuda", gradient_checkpointing=checkpointing, activation_offload=moving)
        gradients(task)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found[moving] = gradients(task), torch.cuda.max_memory_allocated() - before
    assert all(torch.equal(a, b) for a, b in zip(found[False][0], found[True][0], strict=True))
    assert found[True][1] < found[False][1]
