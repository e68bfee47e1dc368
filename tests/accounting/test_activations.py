"""The meta-device count against the same count on real CPU tensors, which compute real values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.accounting import LiveBytes, activation_bytes
from wegeft_pl.accounting.activations import ShapesOnly
from wegeft_pl.accounting.live import identity
from wegeft_pl.losses import causal_lm_loss, labelled_positions


class TinyLlama(nn.Module):
    """A Llama with grouped-query attention, an adapter, and a loss on labelled positions only."""

    def __init__(self, checkpointing: bool = False, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM, LlamaConfig

        config = LlamaConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        self.model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if checkpointing:
            for block in self.model.model.layers:
                block.gradient_checkpointing = True
                block._gradient_checkpointing_func = checkpoint
        inject(self.model, AdapterConfig(targets=["q_proj", "down_proj"], rank=4))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        mask, labels = labelled_positions(batch["labels"])
        hidden = self.model.model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)[0]
        return causal_lm_loss(self.model.lm_head(hidden[mask]), labels)[0]


def checkpoint(function: Any, *args: Any, **kwargs: Any) -> Any:
    from torch.utils.checkpoint import checkpoint as torch_checkpoint

    return torch_checkpoint(function, *args, use_reentrant=False, **kwargs)


def padded_batch(padding: int) -> dict[str, Tensor]:
    ids = torch.arange(2 * 40).reshape(2, 40) % 64
    mask, labels = torch.ones_like(ids), ids.clone()
    labels[:, :10] = -100
    if padding:
        mask[1, -padding:], labels[1, -padding:] = 0, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def measured_on_cpu(task: TinyLlama, batch: dict[str, Tensor]) -> int:
    live = LiveBytes([*task.parameters(), *task.buffers(), *batch.values()])
    for parameter in task.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: live.leave_out(p.grad))
    task.train()
    with live:
        task.loss(batch).backward()
    return live.peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_count_without_values_equals_measurement_with_values(checkpointing: bool, dtype: torch.dtype) -> None:
    task, batch = TinyLlama(checkpointing, dtype), padded_batch(padding=8)
    counted = activation_bytes(task, lambda: task.loss(batch))
    measured = measured_on_cpu(task, batch)
    # Token ids and labels (640 bytes each) get twins on the meta device.
    assert counted == pytest.approx(measured, abs=2000)


def test_saved_tensors_are_the_same_on_meta_and_cpu() -> None:
    task, batch = TinyLlama(), padded_batch(padding=8)

    def saved(loss: Any) -> int:
        known = {identity(tensor) for tensor in [*task.parameters(), *task.buffers()]}
        held: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if identity(tensor) not in known:
                held[identity(tensor)] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss()
        return sum(tensor.untyped_storage().nbytes() for tensor in held.values())

    on_cpu = saved(lambda: task.loss(batch))
    task.to("meta")
    with ShapesOnly():
        on_meta = saved(lambda: task.loss(batch))
    assert on_meta == on_cpu


def test_checkpointing_and_fewer_labels_take_less() -> None:
    batch = padded_batch(padding=0)
    task, saving = TinyLlama(), TinyLlama(checkpointing=True)
    full = activation_bytes(task, lambda: task.loss(batch))
    assert activation_bytes(saving, lambda: saving.loss(batch)) < full / 1.5
    short = {**batch, "labels": batch["labels"].clone()}
    short["labels"][:, :-5] = -100
    assert activation_bytes(task, lambda: task.loss(short)) < full


def test_the_module_is_left_as_it_was() -> None:
    task, batch = TinyLlama(), padded_batch(padding=0)
    task.eval()
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    random_state = torch.get_rng_state()
    activation_bytes(task, lambda: task.loss(batch))
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(part.training for part in task.modules())
    assert all(parameter.grad is None and not parameter.is_meta for parameter in task.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())
