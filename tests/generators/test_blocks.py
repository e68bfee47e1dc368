from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from generator_cases import array, arrays, filled
from torch import nn

from wegeft_pl.generators.blocks import Block, ChannelMLP, L2Norm, Residual, make_norm


def test_l2_norm_learns_nothing_and_keeps_a_zero_token_zero() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    x[1] = 0
    norm = L2Norm()
    np.testing.assert_allclose(array(norm(x)), oracle.unit(array(x)), atol=1e-15)
    assert not list(norm.parameters())


def test_the_gradient_at_a_zero_token_is_finite() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    L2Norm()(x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(("norm", "kind"), [("l2", L2Norm), ("layer", nn.LayerNorm), ("none", nn.Identity)])
def test_norms_by_name(norm: str, kind: type[nn.Module]) -> None:
    assert type(make_norm(norm, 4)) is kind


def test_drop_path_leaves_a_branch_out_or_scales_it_in_training_only() -> None:
    residual, x = Residual(nn.Linear(4, 4), 4, "none", 0.75), torch.randn(3, 4)
    whole = residual.branch(x)
    outcomes = [residual(x) - x for _ in range(400)]
    kept = [outcome for outcome in outcomes if outcome.any()]
    for outcome in kept:
        torch.testing.assert_close(outcome, whole / 0.25)
    assert 0.15 < len(kept) / len(outcomes) < 0.35
    residual.eval()
    assert torch.equal(residual(x), x + whole)


def test_channel_mlp_rounds_its_width() -> None:
    mlp = filled(ChannelMLP(4, 1.5))
    x = torch.randn(3, 4, dtype=torch.float64)
    assert mlp.up.out_features == 6
    np.testing.assert_allclose(array(mlp(x)), oracle.two_layers(array(x), arrays(mlp), "up", "down"), atol=1e-13)


def test_a_block_without_mixing_has_one_branch() -> None:
    assert [name for name, _ in Block(None, 4, "l2", 2, 0).named_children()] == ["channels"]
