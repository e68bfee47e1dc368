"""nn.MultiheadAttention, which reads its matrices without calling a layer, against the equations in float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import timm
import torch
from oracle import merged_input_side, merged_output_side, moved_bias
from torch import nn

from wegeft_pl import Adapter, AdapterConfig, inject, merge, unmerge
from wegeft_pl.adapter import adapter_of

WIDTH = 8


class Block(nn.Module):
    """Attention over a query and something else to attend to, of other widths if asked."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True, **options)

    def forward(self, query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return self.attn(query, memory, memory, need_weights=False)[0]


def model_of(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = nn.ModuleDict({"blocks": nn.ModuleList([Block(**options)])}).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def filled(model: nn.Module, **fields: Any) -> Adapter:
    adapter = inject(model, AdapterConfig(**({"rank": 2, "alpha": 3.0} | fields)))
    torch.manual_seed(1)
    for _, parameter in adapter.named_parameters():
        parameter.data = torch.randn_like(parameter, dtype=torch.float64) * 0.4
    return adapter


def output(model: nn.Module, memory_width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(2, 5, WIDTH, dtype=torch.float64, generator=generator)
    memory = torch.randn(2, 6, memory_width, dtype=torch.float64, generator=generator)
    return model["blocks"][0](query, memory)


def edited_by_hand(model: nn.Module, adapter: Adapter) -> nn.Module:
    plain = copy.deepcopy(model_of())
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if "wegeft" not in key})
    parameters, config = dict(plain.named_parameters()), adapter.config
    oracle = merged_input_side if config.side == "input" else merged_output_side
    for site in adapter.sites:
        phi, psi = (factor.detach().numpy() for factor in (site.generator.phi, site.generator.psi))
        weight = parameters[site.place.tensor].data
        part = "qkv".find(site.name[-1]) if ".in_proj_weight." in site.name else None
        rows = slice(None) if part is None else slice(part * WIDTH, (part + 1) * WIDTH)
        bias = parameters[f"{site.place.layer}.{site.place.bias}"].data
        if config.side == "output":
            bias[rows] = torch.from_numpy(moved_bias(bias[rows].numpy().copy(), phi, psi, config.scale))
        weight[rows] = torch.from_numpy(oracle(weight[rows].numpy().copy(), phi, psi, config.scale))
    return plain


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize(
    "targets",
    [["out_proj"], ["in_proj_weight"], ["in_proj_weight.q", "in_proj_weight.v"], ["attn.in_proj_weight.k", "out_proj"]],
)
def test_forward_merge_and_the_way_back(targets: list[str], side: str) -> None:
    model = model_of()
    base, before = output(model), copy.deepcopy(model.state_dict())
    adapter = filled(model, targets=targets, side=side)
    assert {site.form for site in adapter.sites} == {"weight"}
    wanted = output(edited_by_hand(model, adapter))
    assert (wanted - base).abs().max() > 1e-2
    torch.testing.assert_close(output(model), wanted, rtol=0, atol=1e-12)
    output(model).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for _, parameter in adapter.named_parameters())
    with torch.no_grad():  # attention's own fast path reads the matrices too
        torch.testing.assert_close(output(model.eval()), wanted, rtol=0, atol=1e-12)
    merge(model, adapter)
    torch.testing.assert_close(output(model), wanted, rtol=0, atol=1e-12)
    unmerge(model, adapter)
    torch.testing.assert_close(output(model), wanted, rtol=0, atol=1e-9)
    adapter.remove()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=1e-10)


def test_matrices_of_unequal_widths() -> None:
    model = model_of(kdim=5, vdim=5)
    adapter = filled(model, targets=["q_proj_weight", "v_proj_weight"])
    assert [group.generator.width for group in adapter.groups] == [8, 5]
    wanted = output(model, 5)
    merge(model, adapter)
    torch.testing.assert_close(output(model, 5), wanted, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"v_proj_weight shares its bias with two other matrices, .* side: input"):
        filled(model_of(kdim=5, vdim=5), targets=["v_proj_weight"], side="output")


def test_a_transformer_layers_fast_path_is_left_for_the_edited_one() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True, dropout=0.0).double()
    model = nn.ModuleDict({"blocks": nn.ModuleList([layer])})
    filled(model, targets=["linear1", "out_proj", "in_proj_weight.v"])
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    trained = layer(x)
    layer.eval()
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), trained, rtol=0, atol=1e-12)


def test_bfloat16_stays_within_a_stated_bound() -> None:
    """Weights are rounded to 8 bits: the exact output to 5 % of its largest value, forward and merged alike."""
    model = model_of()
    adapter = filled(model, targets=["in_proj_weight.q", "in_proj_weight.v", "out_proj"])
    wanted = output(model).detach()
    model.bfloat16()
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(2, 5, WIDTH, dtype=torch.float64, generator=generator).bfloat16()
    memory = torch.randn(2, 6, WIDTH, dtype=torch.float64, generator=generator).bfloat16()
    for _ in range(2):
        near = model["blocks"][0](query, memory).detach().double()
        assert float((near - wanted).abs().max() / wanted.abs().max()) < 0.05
        if adapter.state == "attached":
            merge(model, adapter)


def test_a_bias_that_the_reader_keeps_is_not_left_behind() -> None:
    model = timm.create_model("beit_base_patch16_224", embed_dim=12, depth=1, num_heads=2, num_classes=0)
    with pytest.raises(ValueError, match=r"attn.qkv has no bias of its own, and Attention, .* use side: input"):
        filled(model, targets=["qkv"], side="output")
    filled(model, targets=["qkv.q"])


def test_forms_that_never_see_the_input_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"out_proj cannot use form: edit, because MultiheadAttention reads this weight"
    ):
        filled(model_of(), targets=["out_proj"], form="edit")
    assert np.isfinite(output(model_of()).detach().numpy()).all()


@pytest.mark.parametrize("side", ["input", "output"])
def test_an_interrupted_forward_leaves_nothing_behind(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C inside of a forward: no hook runs after it, not even one that is always called."""
    model = model_of()
    base = output(model)
    adapter = filled(model, targets=["in_proj_weight.q", "in_proj_weight.v", "out_proj"], side=side)
    wanted = output(model)

    def interrupt() -> None:
        def stop(*args: Any, **options: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.functional, "multi_head_attention_forward", stop)
            with pytest.raises(KeyboardInterrupt):
                output(model)

    interrupt()
    assert torch.equal(output(model), wanted)  # not the edit of the edited weight
    interrupt()
    adapter.remove()
    torch.testing.assert_close(output(model), base, rtol=0, atol=1e-12)


def test_a_copy_computes_with_its_own_generators() -> None:
    model = model_of()
    base = output(model)
    adapter = filled(model, targets=["in_proj_weight.v", "out_proj"])
    wanted, copied = output(model), copy.deepcopy(model)
    own = adapter_of(copied)
    assert own is not None
    for _, parameter in own.named_parameters():
        parameter.data.zero_()
    torch.testing.assert_close(output(copied), base, rtol=0, atol=1e-12)
    output(copied).sum().backward()
    assert all(parameter.grad is None for _, parameter in adapter.named_parameters())
    own.remove()
    assert torch.equal(output(model), wanted)
