from __future__ import annotations

import pytest
from torch import nn
from transformers import LlamaForCausalLM

from wegeft_pl.adapter.targets import block_index, match_targets, type_pattern


def test_trailing_name_parts_match_whole_parts_only(llama: LlamaForCausalLM) -> None:
    assert list(match_targets(llama, ["self_attn.q_proj"], None)) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
    ]
    with pytest.raises(ValueError, match="no module matches 'proj'"):
        match_targets(llama, ["proj"], None)


def test_a_string_is_a_regular_expression_over_the_whole_name(llama: LlamaForCausalLM) -> None:
    assert list(match_targets(llama, r".*\.0\.mlp\.(up|gate)_proj", None)) == [
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.up_proj",
    ]


def test_all_linear_leaves_the_head_out(llama: LlamaForCausalLM) -> None:
    names = match_targets(llama, "all-linear", None)
    assert len(names) == 2 * 7
    assert "lm_head" not in names


def test_all_linear_leaves_a_sequential_head_out() -> None:
    block = nn.ModuleDict({"fc": nn.Linear(2, 2)})
    model = nn.ModuleDict({"blocks": nn.ModuleList([block]), "classifier": nn.Sequential(nn.ReLU(), nn.Linear(2, 2))})
    assert list(match_targets(model, "all-linear", None)) == ["blocks.0.fc"]


def test_layers_choose_blocks(llama: LlamaForCausalLM) -> None:
    assert list(match_targets(llama, ["q_proj"], [1])) == ["model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize(
    ("targets", "layers", "message"),
    [
        (
            ["q_porj"],
            None,
            r"targets: no module matches 'q_porj'; did you mean 'q_proj'\? this model has q_proj",
        ),
        (["q_proj", "x"], None, r"no module matches 'x'"),
        ("q_proj", None, r"the expression 'q_proj' matches no layer's whole name; .* goes in a list: \[q_proj\]"),
        ("(", None, r"targets: '\(' is not a regular expression"),
        (
            ["embed_tokens"],
            None,
            r"model.embed_tokens is of type Embedding, which has no editable weight; targets are",
        ),
        (["q_proj"], [0, 5], r"layers: the targets have no block 5; this model has 0 to 1"),
    ],
)
def test_what_cannot_be_matched_is_refused(
    llama: LlamaForCausalLM, targets: list[str] | str, layers: list[int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        match_targets(llama, targets, layers)


def test_all_linear_needs_blocks() -> None:
    with pytest.raises(ValueError, match="found no linear layer inside repeated blocks"):
        match_targets(nn.ModuleDict({"a": nn.Linear(2, 2)}), "all-linear", None)


def test_layers_of_a_model_without_blocks() -> None:
    with pytest.raises(ValueError, match="no numbered blocks"):
        match_targets(nn.ModuleDict({"a": nn.Linear(2, 2)}), ["a"], [0])


def test_names() -> None:
    assert block_index("lm_head") is None
    assert block_index("h.3.attn") == 3
    assert type_pattern("layers.0.blocks.1.attn.qkv") == "layers.*.blocks.*.attn.qkv"
