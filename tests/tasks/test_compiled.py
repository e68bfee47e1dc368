"""Compiled blocks: no graph breaks, the same gradients, the same names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import llama_config
from small_run import make_task
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.backbones import huggingface
from wegeft_pl.tasks.compiled import compile_blocks

#: torch._dynamo looks at the gradients of a block's inputs, and silences the warning only where warnings are no errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")

IDS = torch.arange(4, 44).reshape(2, 20)


def make_model(checkpointing: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(num_hidden_layers=4))
    if checkpointing:
        huggingface.checkpoint_activations(model)
    adapter = inject(model, AdapterConfig("all-linear", rank=4, alpha=8))
    for parameter in adapter.state_dict().values():
        parameter.copy_(0.2 * torch.randn(parameter.shape))
    return model.train()


def gradients(model: LlamaForCausalLM) -> list[Tensor]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(model(IDS, use_cache=False).logits.square().sum(), trained))


def check(checkpointing: bool, backend: str) -> None:
    plain = make_model(checkpointing)
    wanted = gradients(plain)
    torch._dynamo.reset()
    counters.clear()
    model = make_model(checkpointing)
    compile_blocks(model, backend=backend)
    for gradient, expected in zip(gradients(model), wanted, strict=True):
        assert float((gradient - expected).norm() / expected.norm()) < 1e-6
    assert not counters["graph_break"]
    # The first block has a graph of its own: nothing before it is trained, so its input needs no gradient.
    assert counters["stats"]["unique_graphs"] <= 2, "four blocks share graphs"
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_graph_breaks_and_equal_gradients(checkpointing: bool) -> None:
    check(checkpointing, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_inductor(checkpointing: bool) -> None:
    check(checkpointing, "inductor")


def test_a_backbone_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="compile_blocks: Linear has no repeated blocks; leave it out"):
        compile_blocks(nn.Linear(2, 2))


def test_a_task_compiles_its_blocks_in_place(llama_folder: Path) -> None:
    task = make_task(llama_folder, compile_blocks=True, gradient_checkpointing=True)
    task.use_adapter(AdapterConfig("all-linear", rank=4))
    task.configure_model()
    assert all(block._compiled_call_impl is not None for block in task.model.model.layers)
    assert not any("_orig_mod" in name for name in task.state_dict())
    plain = make_task(llama_folder)
    plain.configure_model()
    assert all(block._compiled_call_impl is None for block in plain.model.model.layers)
