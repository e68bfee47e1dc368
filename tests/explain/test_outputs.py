"""Outputs of layers, taken once and left alone."""

from __future__ import annotations

import pytest
import torch
from explain.small_vision import adapted

from wegeft_pl.explain import choose_sites, collect_outputs

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fields", [{}, {"side": "output"}, {"form": "factor"}])
def test_outputs_hold_the_adapters_change(fields: dict[str, str]) -> None:
    model, adapter = adapted(**fields)
    with collect_outputs(adapter.sites) as outputs:
        model(IMAGES)
    assert set(outputs) == {"blocks.0.proj", "blocks.1.proj"}
    site = adapter.sites[0]
    kept = []
    model.blocks[0].proj.register_forward_pre_hook(lambda module, args: kept.append(args[0]), prepend=True)
    model(IMAGES)
    left, right = site.factors()
    weight = site.module.get_parameter("weight") + left @ right
    bias = site.module.get_parameter("bias")
    change = site.bias_change()
    expected = kept[0] @ weight.T + (bias if change is None else bias + change)
    torch.testing.assert_close(outputs["blocks.0.proj"], expected, atol=1e-5, rtol=1e-4)
    assert not outputs["blocks.0.proj"].requires_grad


def test_hooks_are_gone_afterwards_also_after_an_error() -> None:
    model, adapter = adapted()
    count = len(model.blocks[0].proj._forward_hooks)
    with pytest.raises(RuntimeError, match="stop"), collect_outputs(adapter.sites):
        raise RuntimeError("stop")
    with collect_outputs(adapter.sites):
        model(IMAGES)
    assert len(model.blocks[0].proj._forward_hooks) == count


def test_refusals() -> None:
    model, adapter = adapted(["proj", "unused"])
    with (
        pytest.raises(ValueError, match="called once in a pass, and unused is read without being called"),
        collect_outputs(adapter.sites),
    ):
        model(IMAGES)
    with (
        pytest.raises(ValueError, match=r"called once in a pass, and blocks.0.proj is called 2 times in one pass"),
        collect_outputs(adapter.sites[:1]),
    ):
        model(torch.stack([model(IMAGES).new_zeros(3, 16, 16)] * 2))
    model.blocks[0].proj.register_forward_hook(lambda module, args, y: (y, y))
    with pytest.raises(ValueError, match=r"blocks.0.proj gives a tuple"), collect_outputs(adapter.sites[:1]):
        model(IMAGES)


def test_choose() -> None:
    _, adapter = adapted(["proj", "qkv"])

    def names(*layers: str) -> list[str]:
        return [site.name for site in choose_sites(adapter.sites, list(layers))]

    assert choose_sites(adapter.sites, None) == adapter.sites
    assert names("blocks.1.proj") == ["blocks.1.proj"]
    assert sorted(names("1")) == ["blocks.1.proj", "blocks.1.qkv"]
    assert sorted(names("qkv", "blocks.0")) == ["blocks.0.proj", "blocks.0.qkv", "blocks.1.qkv"]
    with pytest.raises(ValueError, match=r"layers: 'pro' names no edited layer; the adapter edits 4, such as blocks"):
        names("proj", "pro")
