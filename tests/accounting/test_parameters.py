"""Counts against numbers written out by hand, and against what autograd itself says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.accounting import count_parameters


def llama(vocabulary: int = 32, hidden: int = 16, blocks: int = 3, tied: bool = False) -> nn.Module:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=24,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(("tied", "frozen_embeddings"), [(False, 2 * 32 * 16), (True, 32 * 16)])
def test_by_type_counts_each_generator_and_each_tied_tensor_once(tied: bool, frozen_embeddings: int) -> None:
    model = llama(tied=tied)
    adapter = inject(model, AdapterConfig(targets=["q_proj", "down_proj"], rank=4))
    block = 16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24 + 2 * 16  # q o, k v (two of four heads), gate up down, norms
    frozen = frozen_embeddings + 3 * block + 16
    count = count_parameters(model, adapter)
    assert count.to_dict() == {
        "trainable": 2 * 4 * 16 + 2 * 4 * 24,
        "frozen": frozen,
        "percent_of_frozen": pytest.approx(100 * 320 / frozen),
        "adapter": 320,
        "head": 0,
        "groups": {"q_proj": 128, "down_proj": 192},
    }
    assert count.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count.trainable == adapter.num_parameters()


def test_by_layer_has_a_group_per_layer_and_one_type() -> None:
    model = llama()
    adapter = inject(model, AdapterConfig(targets=["q_proj"], rank=4, sharing="layer"))
    count = count_parameters(model, adapter)
    assert count.types == {"model.layers.*.self_attn.q_proj": 3 * 128}
    assert set(count.groups.values()) == {128}
    assert len(count.groups) == 3


def test_head_is_everything_trained_that_no_generator_owns() -> None:
    model = llama()
    adapter = inject(model, AdapterConfig(targets=["q_proj"], rank=4, also_train=["lm_head", "model.norm"]))
    task = nn.Module()
    task.backbone, task.classifier = model, nn.Linear(16, 5)
    count = count_parameters(task, adapter)
    assert count.head == 32 * 16 + 16 + 16 * 5 + 5
    assert count.trainable == count.adapter + count.head == 128 + count.head


def test_without_adapter_everything_trained_is_head() -> None:
    count = count_parameters(nn.Linear(3, 2), None)
    assert (count.trainable, count.frozen, count.head, count.percent_of_frozen) == (8, 0, 8, 0.0)
