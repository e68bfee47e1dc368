from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from generator_cases import array, arrays, count, filled

from wegeft_pl.generators import GIFTGenerator


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_one_layer_at_a_time_equals_the_batch_of_layers(depth: int, bias: bool) -> None:
    generator = filled(GIFTGenerator(6, 4, rows=5, clusters=3, depth=depth, bias=bias))
    weights = torch.randn(3, 5, 6, dtype=torch.float64)
    changes = [left @ right for left, right in (generator(weight) for weight in weights)]
    expected = oracle.gift_changes(array(weights), arrays(generator), depth)
    np.testing.assert_allclose(array(torch.stack(changes)), expected, atol=1e-11)


def test_full_attention_equals_the_transformer() -> None:
    generator = filled(GIFTGenerator(6, 4, rows=5, attention="full", heads=2, norm="layer"))
    weight = torch.randn(5, 6, dtype=torch.float64)
    parameters = arrays(generator)
    tokens = array(weight) @ parameters["phi"] + parameters["positions"]
    expected = oracle.blocks(tokens, parameters, "transformer", 1, "layer", heads=2)
    np.testing.assert_allclose(array(generator(weight)[0]), expected, atol=1e-12)


def test_no_attention_equals_the_mlp() -> None:
    generator = filled(GIFTGenerator(6, 4, rows=5, attention="none"))
    weight = torch.randn(5, 6, dtype=torch.float64)
    parameters = arrays(generator)
    tokens = array(weight) @ parameters["phi"] + parameters["positions"]
    np.testing.assert_allclose(
        array(generator(weight)[0]), oracle.blocks(tokens, parameters, "mlp", 1, "l2"), atol=1e-12
    )


def test_softmax_equals_the_equation() -> None:
    generator = filled(GIFTGenerator(6, 4, rows=5, clusters=3, assignment="softmax"))
    weight, parameters = torch.randn(5, 6, dtype=torch.float64), arrays(generator)
    tokens = array(weight) @ parameters["phi"] + parameters["positions"]
    expected = oracle.blocks(tokens, parameters, "paca", 1, "l2", assignment="softmax")
    np.testing.assert_allclose(array(generator(weight)[0]), expected, atol=1e-12)


@pytest.mark.parametrize("width", [48, 96, 192])
def test_parameters_of_a_vit_b(width: int) -> None:
    generator = GIFTGenerator(768, width, rows=768)
    assert count(generator) == 3 * 768 * width + 8 * width**2 + 7 * width + (width + 1) * 96
    full = GIFTGenerator(768, width, rows=768, attention="full", bias=True)
    assert count(full) == 3 * 768 * width + 8 * width**2 + 7 * width + 768


def test_a_bias_is_one_more_rank() -> None:
    left, right = GIFTGenerator(6, 4, rows=5, clusters=3, bias=True)(torch.randn(5, 6))
    assert (left.shape, right.shape) == ((5, 5), (5, 6))
    assert not (left @ right).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "pacca"}, r"attention: 'pacca' is not one of paca, full, none; did you mean 'paca'\?"),
        ({"bias": "yes"}, r"bias must be true or false, got 'yes'"),
        ({"zero": "phi"}, r"GIFTGenerator can start at zero by psi only"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GIFTGenerator(6, 4, rows=5, **options)
