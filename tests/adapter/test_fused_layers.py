"""The parts of fused layers, proven on the real classes of transformers, timm, torchvision and torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from adapter.fused_proofs import (
    Case,
    bend,
    close,
    first,
    prove_attention,
    prove_gate,
    rows,
    scaled,
    silenced,
    without_columns,
)
from adapter.fused_transformers import HF, HF_ATTENTION, HF_GATES, LATENT, NO_MASK, hf
from adapter.fused_vision import TIMM, TIMM_GATES, TORCH
from adapter.tiny_layers import GRID, HEADS, IMAGE, SEQUENCE, TOKENS, WIDTH, call, class_of, from_config, inputs, ready
from torch import Tensor, nn

from wegeft_pl.adapter.fused import part_sizes
from wegeft_pl.adapter.fused_layers import RULES


@pytest.mark.parametrize("case", HF_ATTENTION, ids=lambda case: case.name.rpartition(".")[2])
def test_attention_of_transformers(case: Case) -> None:
    prove_attention(case.build(), case)


def test_layoutlmv2_masks_in_single_precision() -> None:
    case = hf("layoutlmv2.LayoutLMv2SelfAttention", "qkv_linear", given_attention_mask=NO_MASK.float())
    module, (x, y) = case.build().float(), inputs(SEQUENCE)
    value, query, key = (scaled(module, "qkv_linear", part) for part in "vqk")
    torch.testing.assert_close(case.run(value, x.float()), case.run(value, y.float()))
    torch.testing.assert_close(case.run(query, x.float()), case.run(key, x.float()))
    assert not torch.allclose(case.run(query, x.float()), case.run(module, x.float()), rtol=1e-2)


@pytest.mark.parametrize("case", HF_GATES, ids=lambda case: case.name.rpartition(".")[2])
def test_gates_of_transformers(case: Case) -> None:
    prove_gate(case.build(), case)


@pytest.mark.parametrize("name", LATENT, ids=lambda name: name.rpartition(".")[2])
def test_latent_attention(name: str) -> None:
    """kv carries everything that is read; k and k_rope together are the key; v is the value."""
    module, (x, y) = from_config(name, num_key_value_heads=HEADS, head_dim=2, num_local_experts=None), inputs(SEQUENCE)
    rotation = (torch.ones(1, TOKENS, 2).double(), torch.zeros(1, TOKENS, 2).double())
    if "deepseek_v2" in name:
        given: dict[str, Any] = {"position_embeddings": torch.ones(1, TOKENS, 1, dtype=torch.complex128)}
    else:
        given = {"position_embeddings": rotation}
    if "deepseek_v32" in name or "glm_moe_dsa" in name:
        given["attention_mask"] = NO_MASK

    def run(layer: nn.Module, tokens: Tensor) -> Tensor:
        return call(layer, tokens, **given)

    plain = run(module, x)
    assert not close(run(module, y), plain)
    for leaf, part in (("kv_a_proj_with_mqa", "kv"), ("kv_b_proj", "v")):
        without = scaled(module, leaf, part)
        assert close(run(without, x), run(without, y))
    unrotated = scaled(module, "kv_a_proj_with_mqa", "k_rope")
    query = next(child for child in ("q_b_proj", "q_proj") if child in dict(module.named_children()))
    uniform = run(silenced(module, query), x)
    assert close(run(scaled(unrotated, "kv_b_proj", "k"), x), uniform)
    assert not close(run(unrotated, x), uniform)
    assert not close(run(unrotated, x), plain)


@pytest.mark.parametrize(
    "case",
    [case for case in HF_ATTENTION if case.name.endswith(("GatedDeltaNet", "MiniMaxLightningAttention"))],
    ids=lambda case: case.name.rpartition(".")[2],
)
def test_values_of_linear_attention(case: Case) -> None:
    """Query, key and value are multiplied alike, but only the value's features are those that are projected out."""
    seen: list[Tensor] = []

    def projected(module: nn.Module) -> Tensor:
        module.get_submodule("out_proj").register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
        case.run(module, inputs(case.shape)[0])
        return seen[-1].abs().amax(dim=(0, 1))

    module = case.build()
    parts = part_sizes(module, case.leaf)
    assert parts is not None
    weight = module.get_submodule(case.leaf).get_parameter("weight")
    assert projected(copy.deepcopy(module)).min() > 0
    weight[rows(parts, "v", weight.shape[0])[1]] = 0.0
    silent = projected(module) == 0
    assert silent.nonzero().flatten().tolist() == [1]


def test_cross_attention_has_no_query_of_its_own() -> None:
    gpt2 = class_of(f"{HF}gpt2.modeling_gpt2.GPT2Attention")
    config = class_of("transformers.GPT2Config")(n_embd=WIDTH, n_head=HEADS)  # type: ignore[arg-type]
    assert part_sizes(gpt2(config, is_cross_attention=True, layer_idx=0), "c_attn") == {"k": WIDTH, "v": WIDTH}
    bigcode = from_config(f"{HF}gpt_bigcode.modeling_gpt_bigcode.GPTBigCodeAttention")
    bigcode.is_cross_attention = True
    assert part_sizes(bigcode, "c_attn") is None


@pytest.mark.parametrize("case", TIMM, ids=lambda case: case.name.removeprefix("timm."))
def test_attention_of_timm(case: Case) -> None:
    prove_attention(case.build(), case)


@pytest.mark.parametrize("case", TIMM_GATES, ids=lambda case: case.name.removeprefix("timm."))
def test_gates_of_timm(case: Case) -> None:
    prove_gate(case.build(), case)


def test_global_windows_bring_their_own_query() -> None:
    module = ready(class_of("timm.models.gcvit.WindowAttentionGlobal")(WIDTH, HEADS, (4, 4), use_global=True))
    (x, y), (_, queries) = inputs(GRID), inputs((1, 16, WIDTH))
    assert part_sizes(module, "qkv") == {"k": WIDTH, "v": WIDTH}
    without = scaled(module, "qkv", "v")
    assert close(without(x, queries), without(y, queries))
    # Without a query, or without keys, every score is the position's own.
    assert close(module(x, 0 * queries), scaled(module, "qkv", "k")(x, queries))
    assert not close(module(x, queries), module(x, 0 * queries))


@pytest.mark.parametrize("kind", ["ParallelScalingBlock", "DiffParallelScalingBlock"])
def test_parallel_blocks(kind: str) -> None:
    name = f"timm.models.vision_transformer.{kind}"

    def run(block: nn.Module, x: Tensor) -> Tensor:
        return first(block(x)) - x

    module = ready(class_of(name)(WIDTH, HEADS, mlp_ratio=2))
    if kind == "ParallelScalingBlock":
        attention_only, mlp_only = silenced(module, "mlp_out_proj"), silenced(module, "attn_out_proj")
    else:
        attention_only = without_columns(module, slice(WIDTH, None))
        mlp_only = without_columns(module, slice(WIDTH))
    prove_attention(attention_only, Case(name, "in_proj", lambda: module, GRID, run))
    x, y = inputs(GRID)
    without = scaled(mlp_only, "in_proj", "mlp")
    assert close(run(without, x), run(without, y))
    assert not close(run(mlp_only, x), run(mlp_only, y))


def test_the_query_of_davits_channel_attention_is_what_it_mixes() -> None:
    module, (x, y) = ready(class_of("timm.models.davit.ChannelAttention")(WIDTH, HEADS, qkv_bias=True)), inputs(GRID)
    without = scaled(module, "qkv", "q")
    assert close(without(x), without(y))
    assert close(scaled(module, "qkv", "k")(x), scaled(module, "qkv", "v")(x))
    assert not close(scaled(module, "qkv", "k")(x), module(x))


class NoPositions(nn.Module):
    """In place of CoaT's positions, which multiply the query with the value as well."""

    def forward(self, q: Tensor, v: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.zeros_like(v)


def test_factorised_attention_of_coat() -> None:
    kind = class_of("timm.models.coat.FactorAttnConvRelPosEnc")
    module = ready(kind(WIDTH, HEADS, qkv_bias=True, shared_crpe=NoPositions()))
    x, y = inputs(GRID)

    def run(layer: nn.Module, tokens: Tensor) -> Tensor:
        return first(layer(tokens, (4, 4)))

    for part in ("q", "v"):
        without = scaled(module, "qkv", part)
        assert close(run(without, x), run(without, y))
        assert bend(module, "qkv", part, run, x) <= 1e-9
    assert bend(module, "qkv", "k", run, x) >= 1e-3
    # The same query everywhere reads the same mixture of values everywhere.
    same = scaled(module, "qkv", "q")
    same.get_parameter("qkv.bias")[rows({"q": WIDTH, "kv": 2 * WIDTH}, "q", 3 * WIDTH)] = 1.0
    assert close(run(same, x)[:, 1:], run(same, x)[:, :1].expand(-1, 15, -1))
    assert not close(run(same, x), run(same, y))


def test_separable_attention_of_mobilevit() -> None:
    module = ready(class_of("timm.models.mobilevit.LinearSelfAttention")(WIDTH))
    module.get_parameter("out_proj.bias").zero_()
    x, y = inputs(IMAGE)
    for part in ("k", "v"):
        without = scaled(module, "qkv_proj", part)
        assert close(without(x), without(y))
    assert close(scaled(module, "qkv_proj", "k", -1.0)(x), -module(x))
    assert not close(scaled(module, "qkv_proj", "v", -1.0)(x), -module(x))  # the value passes a ReLU
    assert bend(module, "qkv_proj", "q", lambda layer, image: layer(image), x) >= 1e-3


@pytest.mark.parametrize("case", TORCH, ids=lambda case: case.name.rpartition(".")[2])
def test_attention_of_torch(case: Case) -> None:
    prove_attention(case.build(), case)


def test_every_rule_is_proven_above() -> None:
    cases = [*HF_ATTENTION, *HF_GATES, *TIMM, *TIMM_GATES, *TORCH]
    alone = {
        (f"{HF}layoutlmv2.modeling_layoutlmv2.LayoutLMv2SelfAttention", "qkv_linear"),
        ("timm.models.davit.ChannelAttention", "qkv"),
        ("timm.models.coat.FactorAttnConvRelPosEnc", "qkv"),
        ("timm.models.mobilevit.LinearSelfAttention", "qkv_proj"),
        ("timm.models.vision_transformer.ParallelScalingBlock", "in_proj"),
        ("timm.models.vision_transformer.DiffParallelScalingBlock", "in_proj"),
        *((name, leaf) for name in LATENT for leaf in ("kv_a_proj_with_mqa", "kv_b_proj")),
    }
    assert {(case.name, case.leaf) for case in cases} | alone == set(RULES)
