"""Weights folded for a while compute as merged ones do, and leave nothing behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from wegeft_pl import Adapter, AdapterConfig, inject, merge
from wegeft_pl.adapter.folded import cannot_fold, folded

IDS = torch.arange(3, 23).reshape(2, 10)


def perturbed(model: nn.Module, **fields: Any) -> Adapter:
    adapter = inject(model, AdapterConfig(**({"targets": "all-linear", "rank": 4, "alpha": 8} | fields)))
    torch.manual_seed(0)
    for _, parameter in adapter.named_parameters():
        parameter.data += torch.randn_like(parameter) * 0.05
    return adapter


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"side": "output"},
        {"form": "factor", "sharing": "layer"},
        {"targets": ["c_attn.q", "c_attn.v", "c_fc"]},
        {"targets": ["c_attn.v"], "side": "output"},
        {"generator": "wegeft_pl.generators.PaCaGenerator"},
        {"also_train": ["ln_f"]},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_equals_merged(gpt2: GPT2LMHeadModel, fields: dict[str, Any], dtype: torch.dtype) -> None:
    gpt2.to(dtype)
    for block in gpt2.transformer.h:
        nn.init.normal_(block.attn.c_attn.bias)
    adapter = perturbed(gpt2, **fields)
    before, hooked = copy.deepcopy(gpt2.state_dict()), gpt2(IDS).logits
    with folded(adapter), torch.no_grad():
        inside = gpt2(IDS).logits
        assert gpt2.state_dict().keys() == before.keys()
    assert torch.equal(gpt2(IDS).logits, hooked)
    for name, tensor in gpt2.state_dict().items():
        assert torch.equal(tensor, before[name])
    merge(gpt2, adapter)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-6, "atol": 2**-6}
    torch.testing.assert_close(inside, gpt2(IDS).logits, **close)
    assert (inside - hooked).abs().max() < (1e-4 if dtype == torch.float32 else 0.1)


def test_generation_is_the_same_and_an_error_restores(llama: LlamaForCausalLM) -> None:
    adapter = perturbed(llama)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    hooked = llama.generate(IDS, **options)
    with folded(adapter):
        assert torch.equal(llama.generate(IDS, **options), hooked)
    logits = llama(IDS).logits
    with pytest.raises(RuntimeError, match="stop"), folded(adapter):
        raise RuntimeError("stop")
    assert torch.equal(llama(IDS).logits, logits)
    assert all("weight" not in module.__dict__ for module in llama.modules())
    llama(IDS, labels=IDS).loss.backward()
    assert all(parameter.grad is not None for _, parameter in adapter.named_parameters())


def test_what_cannot_be_folded_says_so(llama: LlamaForCausalLM) -> None:
    adapter = perturbed(llama)
    assert cannot_fold(adapter) is None
    adapter.remove()
    with (
        pytest.raises(ValueError, match="cannot be folded into the weights for a while: the adapter is detached"),
        folded(adapter),
    ):
        pass


def test_nothing_else_is_done_to_a_folded_adapter(llama: LlamaForCausalLM) -> None:
    adapter = perturbed(llama)
    logits = llama(IDS).logits
    with folded(adapter):
        with pytest.raises(ValueError, match="must be attached to be merged, but it is folded"):
            merge(llama, adapter)
        with pytest.raises(ValueError, match=r"is folded into the weights; leave the block"):
            adapter.remove()
        with pytest.raises(ValueError, match="for a while: the adapter is folded"), folded(adapter):
            pass
    assert torch.equal(llama(IDS).logits, logits)


def test_a_parameter_that_is_replaced_inside_does_not_lose_the_hooks(llama: LlamaForCausalLM) -> None:
    adapter = perturbed(llama)
    logits, state = llama(IDS).logits, copy.deepcopy(llama.state_dict())
    with folded(adapter):
        llama.load_state_dict(state, assign=True)
    assert torch.equal(llama(IDS).logits, logits)
