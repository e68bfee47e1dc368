"""Adapters computed with, against merged weights written out in float64."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter.linear_adapters import SIDES, Net, applied, arrays, assert_equal, made

from wegeft_pl import load_adapter, merge
from wegeft_pl.adapter import add, compose, interpolate, invert, negate, rebase, recompress
from wegeft_pl.adapter.storage import read_tensors


@SIDES
def test_composition_is_the_second_on_the_first_ones_merged_weights(tmp_path: Path, side: str) -> None:
    net = Net()
    a, b = made(net, tmp_path, 1, side=side), made(net, tmp_path, 2, side=side, rank=2, alpha=None)
    both = compose(a, b)
    assert (both.config.rank, both.config.scale) == (5, 1.0)
    assert_equal(applied(arrays(net), both), applied(applied(arrays(net), a), b))
    other = applied(applied(arrays(net), b), a)
    assert any(np.abs(value - other[name]).max() > 0.1 for name, value in applied(arrays(net), both).items())


@SIDES
def test_composition_through_folders_and_merge(tmp_path: Path, side: str) -> None:
    """The same by the package's own merge, one adapter after the other; the written factors are float32."""
    net = Net()
    a, b = made(net, tmp_path, 1, side=side), made(net, tmp_path, 2, side=side)
    compose(a, b).write(tmp_path / "c")
    joined = copy.deepcopy(net)
    adapter = load_adapter(joined, tmp_path / "c")
    assert adapter.history == [{"composed": "the second on the first's merged weights"}]
    merge(joined, adapter)
    stepwise = copy.deepcopy(net)
    merge(stepwise, load_adapter(stepwise, tmp_path / "1"))
    second = copy.deepcopy(net)
    second.load_state_dict({name: torch.from_numpy(value) for name, value in arrays(stepwise).items()})
    merge(second, rebase(tmp_path / "2", second))
    assert_equal(arrays(joined), arrays(second), 1e-5)


@SIDES
def test_sum_difference_and_interpolation(tmp_path: Path, side: str) -> None:
    net = Net()
    old, a, b = arrays(net), made(net, tmp_path, 1, side=side), made(net, tmp_path, 2, side=side, rank=1)
    one, two = applied(old, a), applied(old, b)
    for weights in ((1.0, 1.0), (1.0, -1.0), (0.3, 2.0)):
        expected = {n: old[n] + weights[0] * (one[n] - old[n]) + weights[1] * (two[n] - old[n]) for n in old}
        assert_equal(applied(old, add(a, b, weights)), expected)
    for t in (0.0, 0.25, 1.0):
        assert_equal(applied(old, interpolate(a, b, t)), {n: (1 - t) * one[n] + t * two[n] for n in old})


@SIDES
def test_negation_and_inverse(tmp_path: Path, side: str) -> None:
    net = Net()
    old, a = arrays(net), made(net, tmp_path, 1, side=side)
    new = applied(old, a)
    assert_equal(applied(old, negate(a)), {n: 2 * old[n] - new[n] for n in old})
    assert_equal(applied(new, invert(a)), old, 1e-9)
    assert_equal(applied(applied(new, negate(a)), negate(negate(a))), applied(applied(new, negate(a)), a))
    nothing = compose(a, invert(a))
    assert max(float((f.phi @ f.psi).abs().max()) for f in nothing.groups.values()) < 1e-9


def test_no_inverse_of_a_singular_edit(tmp_path: Path) -> None:
    a = made(Net(), tmp_path, 1, rank=1, alpha=None)
    phi, psi = torch.zeros(6, 1, dtype=torch.float64), torch.zeros(1, 6, dtype=torch.float64)
    phi[0], psi[0, 0] = 1.0, -1.0
    broken = dataclasses.replace(a, groups={"up": dataclasses.replace(a.groups["up"], phi=phi, psi=psi)})
    with pytest.raises(
        ValueError, match=r"group of blocks.0.up: I . s phi psi is nearly singular .condition .*; keep the base"
    ):
        invert(broken)


@SIDES
def test_recompression_is_the_truncated_svd_with_exact_errors(tmp_path: Path, side: str) -> None:
    net = Net()
    both = compose(made(net, tmp_path, 1, side=side), made(net, tmp_path, 2, side=side))
    for rank in (1, 4, 6):
        cut, lost = recompress(both, rank)
        assert (cut.config.rank, cut.config.scale) == (rank, 1.0)
        for name, factors in both.groups.items():
            u, values, vh = torch.linalg.svd(factors.phi @ factors.psi)
            best = u[:, :rank] @ torch.diag(values[:rank]) @ vh[:rank]
            torch.testing.assert_close(cut.groups[name].phi @ cut.groups[name].psi, best, rtol=1e-9, atol=1e-9)
            error = factors.phi @ factors.psi - best
            assert lost[name].frobenius == pytest.approx(float(error.norm()), rel=1e-9, abs=1e-12)
            assert lost[name].relative == pytest.approx(float(error.norm() / values.norm()), rel=1e-9, abs=1e-12)
            assert lost[name].spectral == pytest.approx(float(torch.linalg.svdvals(error)[0]), rel=1e-9, abs=1e-12)
            gram = cut.groups[name].phi.T @ cut.groups[name].phi
            torch.testing.assert_close(gram, cut.groups[name].psi @ cut.groups[name].psi.T, rtol=1e-9, atol=1e-9)
            for site in factors.sites:  # no weight moves by more than the spectral error
                weight = net.get_submodule(site).weight.detach()
                moved = weight @ error if side == "input" else error @ weight
                assert float(moved.norm()) <= lost[name].spectral * float(weight.norm()) + 1e-12


def test_recompression_beyond_the_width_pads_and_a_zero_change_loses_nothing(tmp_path: Path) -> None:
    a = made(Net(), tmp_path, 1, rank=8)
    cut, lost = recompress(a, 8)  # 8 directions in a width of 6
    products = [{n: f.phi.numpy() @ f.psi.numpy() for n, f in x.groups.items()} for x in (cut, a)]
    assert_equal(products[0], {n: a.config.scale * product for n, product in products[1].items()})
    assert cut.groups["up"].phi.shape == (6, 8)
    zero = add(a, a, (0.0, 0.0))
    assert all(loss == type(loss)(0.0, 0.0, 0.0) for loss in recompress(zero, 2)[1].values())
    for rank in (0, 9, True, 2.5):
        with pytest.raises(ValueError, match="rank must be an integer from 1 to the adapter's 8, got"):
            recompress(a, rank)  # type: ignore[arg-type]
    assert max(loss.relative for loss in lost.values()) < 1e-12


def test_what_does_not_go_together_is_named(tmp_path: Path) -> None:
    net = Net()
    a = made(net, tmp_path, 1)
    for fields, match in (
        ({"side": "output"}, "edits the input side and the other the output side; merge one of them"),
        (
            {"targets": ["up"]},
            "group down is not the same in both adapters; .* equal targets, layers and sharing .up, down and up.",
        ),
        ({"sharing": "layer"}, "group up is not the same in both adapters"),
        ({"layers": [1]}, "group up is not the same in both adapters"),
    ):
        with pytest.raises(ValueError, match=match):
            compose(a, made(net, tmp_path, len(match) + len(str(fields)) * 100, **fields))
    trained = made(net, tmp_path, 3, targets=["down"], also_train=["blocks.0.up"])
    for function in (negate, invert, lambda adapter: add(adapter, adapter), lambda adapter: compose(adapter, adapter)):
        with pytest.raises(ValueError, match=r"trains blocks.0.up.bias in full .2 tensors., and only generators can"):
            function(trained)
    other = made(Net(), tmp_path, 4)
    with pytest.raises(
        ValueError, match=r"belong to different bases .Net-.* and Net-.*any_base=True .--any_base. the result"
    ):
        compose(a, other)
    assert compose(a, other, any_base=True).base == a.base
    assert compose(other, a, any_base=True).base == other.base
    wide = dataclasses.replace(
        a, groups={n: dataclasses.replace(f, phi=torch.zeros(7, 3)) for n, f in a.groups.items()}
    )
    with pytest.raises(ValueError, match="group up has width 6 in one adapter and 7 in the other"):
        compose(a, wide)


def test_what_is_trained_in_full_survives_a_recompression(tmp_path: Path) -> None:
    a = made(Net(), tmp_path, 1, targets=["down"], also_train=["blocks.0.up"])
    recompress(a, 1)[0].write(tmp_path / "cut")
    one, two = read_tensors(tmp_path / "1/adapter.safetensors"), read_tensors(tmp_path / "cut/adapter.safetensors")
    assert torch.equal(one["blocks.0.up.weight"], two["blocks.0.up.weight"])


def test_training_options_do_not_outlive_the_training(tmp_path: Path) -> None:
    net = Net()
    a = made(net, tmp_path, 1, weight_dropout=0.5, form="factor")
    config = compose(a, made(net, tmp_path, 2)).config
    assert (config.weight_dropout, config.input_dropout, config.form, config.alpha) == (0.0, 0.0, "auto", None)
