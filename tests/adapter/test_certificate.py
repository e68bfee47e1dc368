"""The certificate, the cap and the condition against full D x D matrices in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject, merge, unmerge
from wegeft_pl.adapter import cap_spectrum, certificate
from wegeft_pl.adapter.certificate import clip_factors, edit_condition, frobenius
from wegeft_pl.adapter.spectrum import sigma_max
from wegeft_pl.generators import SigmoidGenerator


def factors(width: int, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(width, rank, generator=generator), torch.randn(rank, width, generator=generator)


def full(phi: Tensor, psi: Tensor, scale: float) -> Tensor:
    return scale * phi.double() @ psi.double()


def projected(product: Tensor, cap: float) -> Tensor:
    """The nearest matrix with singular values of at most ``cap``: cut every one of the whole product."""
    u, values, vh = torch.linalg.svd(product)
    return u @ torch.diag(values.clamp(max=cap)) @ vh


@pytest.mark.parametrize(("width", "rank"), [(20, 4), (5, 5), (3, 6)])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_clipping_is_the_projection(width: int, rank: int, scale: float) -> None:
    phi, psi = factors(width, rank)
    phi, psi = phi.double(), psi.double()
    values = torch.linalg.svdvals(full(phi, psi, scale))
    cap = float(values[: min(width, rank)].median())  # some above, some below
    new_phi, new_psi = clip_factors(phi, psi, scale, cap)
    torch.testing.assert_close(
        full(new_phi, new_psi, scale), projected(full(phi, psi, scale), cap), rtol=1e-9, atol=1e-9
    )
    assert sigma_max(new_phi, new_psi, scale) <= cap


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bound_holds_for_the_rounded_values(dtype: torch.dtype) -> None:
    for seed in range(20):
        phi, psi = (factor.to(dtype) for factor in factors(30, 6, seed))
        new_phi, new_psi = clip_factors(phi, psi, 1.0, 0.3)
        assert new_phi.dtype == new_psi.dtype == dtype
        largest = float(torch.linalg.svdvals(full(new_phi, new_psi, 1.0))[0])
        assert 0.3 * (1 - 20 * torch.finfo(dtype).eps) <= largest <= 0.3 * (1 + 1e-12)


def test_both_factors_shrink_and_directions_within_the_cap_stay() -> None:
    phi, psi = torch.zeros(4, 2), torch.zeros(2, 4)
    phi[0, 0], psi[0, 1] = 8.0, 2.0  # 16 times e0 e1^T
    phi[2, 1], psi[1, 3] = 0.5, 1.0  # 0.5 times e2 e3^T
    new_phi, new_psi = clip_factors(phi, psi, 1.0, 1.0)
    torch.testing.assert_close(new_phi, torch.tensor([[2.0, 0], [0, 0], [0, 0.5], [0, 0]]))
    torch.testing.assert_close(new_psi, torch.tensor([[0, 0.5, 0, 0], [0, 0, 0, 1.0]]))


def test_frobenius() -> None:
    phi, psi = factors(11, 3)
    assert frobenius(phi, psi, -2.0) == pytest.approx(float(full(phi, psi, -2.0).norm()), rel=1e-12)


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("sharing", ["type", "layer"])
def test_cap_of_an_adapter(llama: LlamaForCausalLM, side: str, sharing: str) -> None:
    adapter = inject(llama, AdapterConfig(["q_proj", "down_proj"], rank=3, alpha=6, side=side, sharing=sharing))
    for index, group in enumerate(adapter.groups):
        std = 1e-3 if index == 0 else 1.0  # the first group stays within
        torch.nn.init.normal_(group.generator.phi, std=std)
        torch.nn.init.normal_(group.generator.psi, std=std)
    before = certificate(adapter)
    quiet, *loud = [group.name for group in adapter.groups]
    kept = {name: value.clone() for name, value in adapter.groups[0].generator.state_dict().items()}
    assert cap_spectrum(adapter, 0.25) == {name: before[name] for name in loud}
    assert all(torch.equal(value, kept[name]) for name, value in adapter.groups[0].generator.state_dict().items())
    assert certificate(adapter)[quiet] == before[quiet]
    assert cap_spectrum(adapter, 0.25) == {}
    for site in adapter.sites:
        left, right = site.factors(torch.float64)
        weight = site.module.weight.detach().double()
        for order in (2, "fro"):
            ratio = float(torch.linalg.norm(left @ right, order) / torch.linalg.norm(weight, order))
            assert ratio <= 0.25 + 1e-12


def test_what_cannot_be_capped(llama: LlamaForCausalLM) -> None:
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=2))
    for cap in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"cap must be positive, got .*; it bounds"):
            cap_spectrum(adapter, cap)
    adapter.remove()
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=2, generator=SigmoidGenerator, zero="psi"))
    with pytest.raises(ValueError, match=r"group q_proj: .* linear generators only, and this is a SigmoidGenerator"):
        cap_spectrum(adapter, 1.0)
    with pytest.raises(ValueError, match="linear generators only"):
        certificate(adapter)


@pytest.mark.parametrize(("width", "rank"), [(20, 4), (5, 4), (4, 4), (3, 6)])
def test_condition_of_the_whole_edit(width: int, rank: int) -> None:
    phi, psi = factors(width, rank)
    edit = torch.eye(width, dtype=torch.float64) + full(phi, psi, 0.7)
    assert edit_condition(phi, psi, 0.7) == pytest.approx(float(torch.linalg.cond(edit)), rel=1e-6)


def test_unmerge_refuses_an_edit_that_only_the_whole_condition_shows(llama: LlamaForCausalLM) -> None:
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=1))
    phi, psi = adapter.groups[0].generator.phi.data, adapter.groups[0].generator.psi.data
    phi.zero_(), psi.zero_()
    phi[0], psi[0, 1] = 1e5, 1.0  # psi phi = 0, so that I + psi phi = 1, and I + phi psi is a shear of condition 1e10
    merge(llama, adapter)
    with pytest.raises(ValueError, match=r"nearly singular .condition 1.0e\+10.*merge with keep_base=True"):
        unmerge(llama, adapter)


@pytest.mark.parametrize(
    ("dtype", "eps"), [(torch.float64, 2.0**-53), (torch.float32, 2.0**-24), (torch.bfloat16, 2.0**-9)]
)
def test_an_undone_merge_is_within_the_documented_error(
    llama: LlamaForCausalLM, dtype: torch.dtype, eps: float
) -> None:
    llama.to(dtype)
    old = {name: value.clone() for name, value in llama.state_dict().items()}
    adapter = inject(llama, AdapterConfig("all-linear", rank=3, sharing="layer"))
    for _, parameter in adapter.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    worst = {site.name: edit_condition(site.generator.phi, site.generator.psi, 1.0) for site in adapter.sites}
    merge(llama, adapter)
    rounding = {name: float(llama.get_submodule(name).weight.double().norm()) * eps for name in worst}
    unmerge(llama, adapter)
    for name, condition in worst.items():
        back = llama.get_submodule(name).weight.detach().double()
        error = float((back - old[f"{name}.weight"].double()).norm())
        assert error <= condition * rounding[name] + 2 * eps * float(back.norm())
