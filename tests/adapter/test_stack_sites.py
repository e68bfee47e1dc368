"""Stacked experts of real mixture-of-experts models against the equations, in float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from oracle import merged_input_side, merged_output_side, moved_bias
from torch import nn
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MixtralConfig,
    MixtralForCausalLM,
)

from wegeft_pl import Adapter, AdapterConfig, inject, merge, unmerge
from wegeft_pl.backbones.huggingface import checkpoint_activations

SMALL = {
    "vocab_size": 40, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "num_local_experts": 3, "num_experts_per_tok": 2,
    "experts_implementation": "eager",  # the grouped kernels know no float64
}  # fmt: skip
#: Experts stored (E, O, I), without biases; and (E, I, O), with biases, gate and up interleaved.
MODELS = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SMALL)),
    "gpt_oss": lambda: GptOssForCausalLM(GptOssConfig(**SMALL, layer_types=["full_attention"] * 2)),
}
IDS = torch.arange(14).reshape(2, 7)


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def filled(model: nn.Module, **fields: Any) -> Adapter:
    adapter = inject(model, AdapterConfig(**({"rank": 2, "alpha": 3.0} | fields)))
    torch.manual_seed(1)
    for _, parameter in adapter.named_parameters():
        parameter.data = torch.randn_like(parameter, dtype=torch.float64) * 0.3
    return adapter


def features(name: str, site: str, size: int) -> list[int]:
    """The output features that a site's name stands for."""
    part = site.rpartition(".")[2]
    if part not in ("gate", "up"):
        return list(range(size))
    start = int(part == "up")
    return list(range(start, size, 2)) if name == "gpt_oss" else list(range(start * size // 2, (start + 1) * size // 2))


def edited_by_hand(name: str, model: nn.Module, adapter: Adapter) -> nn.Module:
    """A plain copy whose experts are multiplied out one by one."""
    plain = MODELS[name]().double().eval()
    own = {key: value for key, value in model.state_dict().items() if "wegeft" not in key}
    plain.load_state_dict(copy.deepcopy(own))
    parameters, config = dict(plain.named_parameters()), adapter.config
    for site in adapter.sites:
        phi, psi = (factor.detach().numpy() for factor in (site.generator.phi, site.generator.psi))
        stack = parameters[site.place.tensor].data
        matrices = stack.transpose(1, 2) if name == "gpt_oss" else stack
        rows = features(name, site.name, matrices.shape[1])
        oracle = merged_input_side if config.side == "input" else merged_output_side
        for expert, matrix in enumerate(matrices):
            matrix[rows] = torch.from_numpy(oracle(matrix[rows].numpy().copy(), phi, psi, config.scale))
            bias = parameters.get(f"{site.place.tensor}_bias")
            if config.side == "output" and bias is not None:
                values = bias.data[expert, rows].numpy().copy()
                bias.data[expert, rows] = torch.from_numpy(moved_bias(values, phi, psi, config.scale))
    return plain


def logits(model: nn.Module) -> np.ndarray:
    return model(input_ids=IDS, use_cache=False).logits.detach().numpy()


@pytest.mark.parametrize(
    ("targets", "fields", "forms"),
    [
        (["experts.gate_up_proj", "experts.down_proj"], {}, ["edit", "weight"]),
        (["experts.gate_up_proj"], {"form": "weight"}, ["weight"]),
        (["gate_up_proj.gate", "gate_up_proj.up"], {}, ["weight", "weight"]),
        (["gate_up_proj.up", "down_proj"], {"side": "output"}, ["weight", "weight"]),
        (["experts.gate_up_proj"], {"generator": "wegeft_pl.generators.PaCaGenerator", "sharing": "layer"}, ["weight"]),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_forward_merge_and_the_way_back(
    name: str, targets: list[str], fields: dict[str, Any], forms: list[str]
) -> None:
    model = model_of(name)
    base, before = logits(model), copy.deepcopy(model.state_dict())
    adapter = filled(model, targets=targets, **fields)
    assert [group.sites[0].form for group in adapter.groups][: len(forms)] == forms
    linear = adapter.groups[0].generator.can_edit
    wanted = logits(edited_by_hand(name, model, adapter)) if linear else logits(model)
    assert np.abs(wanted - base).max() > 1e-3
    np.testing.assert_allclose(logits(model), wanted, atol=1e-11)
    merge(model, adapter, keep_base=not linear)
    np.testing.assert_allclose(logits(model), wanted, atol=1e-11)
    unmerge(model, adapter)
    np.testing.assert_allclose(logits(model), wanted, atol=1e-9)
    adapter.remove()
    assert model.state_dict().keys() == before.keys()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_editing_the_input_and_the_weight_have_the_same_gradients(name: str) -> None:
    gradients = []
    for form in ("edit", "weight"):
        adapter = filled(model := model_of(name), targets=["experts.gate_up_proj"], form=form)
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append([parameter.grad for _, parameter in adapter.named_parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
        assert one.any()


def test_a_router_that_returns_more_than_its_product_is_edited_on_the_input_side_alone() -> None:
    torch.manual_seed(0)
    config = Llama4TextConfig(**SMALL, intermediate_size_mlp=12, pad_token_id=0, layer_types=["full_attention"] * 2)
    model = Llama4ForCausalLM(config).double().eval()
    with pytest.raises(ValueError, match=r"router cannot use form: edit, because Llama4Router returns something made"):
        filled(model, targets=["router"], side="output", form="edit")
    adapter = filled(model, targets=["router", "gate_up_proj", "down_proj"])
    forms = {group.name: group.sites[0].form for group in adapter.groups}
    assert {name: forms[name] for name in ("router", "gate_up_proj", "experts.down_proj")} == {
        "router": "edit",
        "gate_up_proj": "edit",
        "experts.down_proj": "weight",
    }
    wanted = logits(model)
    merge(model, adapter)
    np.testing.assert_allclose(logits(model), wanted, atol=1e-11)


def test_all_linear_takes_the_experts() -> None:
    adapter = filled(model_of("mixtral"), targets="all-linear")
    assert {"experts.gate_up_proj", "experts.down_proj"} <= {
        ".".join(site.name.split(".")[-2:]) for site in adapter.sites
    }


def test_gradient_checkpointing_forms_the_weights_anew() -> None:
    gradients = []
    for recompute in (False, True):
        model = model_of("mixtral").train()
        adapter = filled(model, targets=["down_proj"])
        if recompute:
            checkpoint_activations(model)
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append([parameter.grad for _, parameter in adapter.named_parameters()])
        assert "down_proj" not in model.model.layers[0].mlp.experts.__dict__
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_a_forward_that_fails_uncovers_the_weight() -> None:
    model = model_of("mixtral")
    filled(model, targets=["down_proj"])
    with pytest.raises(IndexError):
        model(input_ids=IDS + 100)
    experts = model.model.layers[0].mlp.experts
    with pytest.raises(RuntimeError):
        experts(torch.zeros(3, 5, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2))
    assert experts.down_proj is dict(experts.named_parameters())["down_proj"]


def test_input_dropout_has_no_place_inside_of_the_experts() -> None:
    with pytest.raises(ValueError, match=r"experts.down_proj can only be edited by forming its weight anew"):
        filled(model_of("mixtral"), targets=["down_proj"], input_dropout=0.1)
    with pytest.raises(
        ValueError, match=r"down_proj cannot use form: edit, because it is applied inside of the expert"
    ):
        filled(model_of("mixtral"), targets=["down_proj"], form="edit")


@pytest.mark.parametrize("name", MODELS)
def test_a_base_is_the_same_base_with_its_experts_quantised(name: str) -> None:
    model, quantised, other = model_of(name), model_of(name), model_of(name)
    other.get_parameter("model.norm.weight").data += 1.0
    for block in quantised.get_submodule("model.layers").children():
        experts = block.get_submodule("mlp.experts")
        for parameter in ("gate_up_proj", "down_proj"):
            codes = torch.zeros_like(experts.get_parameter(parameter), dtype=torch.int8)
            setattr(experts, parameter, nn.Parameter(codes, requires_grad=False))
    found, stored, another = (filled(each, targets=["q_proj"]).fingerprint for each in (model, quantised, other))
    assert stored.quantization == "int8"
    found.check(stored, "the adapter")
    stored.check(found, "the adapter")
    with pytest.raises(ValueError, match="trained on another base"):
        stored.check(another, "the adapter")
