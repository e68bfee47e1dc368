from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from generator_cases import array, arrays, count, filled
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wegeft_pl.generators import PaCaGenerator


@pytest.mark.parametrize(("heads", "depth"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("assignment", ["sigmoid", "softmax"])
@pytest.mark.parametrize("norm", ["l2", "layer", "none"])
def test_equals_the_equation(norm: str, assignment: str, heads: int, depth: int) -> None:
    generator = PaCaGenerator(6, 4, clusters=3, assignment=assignment, norm=norm, heads=heads, depth=depth)
    filled(generator)
    weight = torch.randn(5, 6, dtype=torch.float64)
    left, right = generator(weight)
    tokens, parameters = array(weight) @ array(generator.phi), arrays(generator)
    expected = oracle.blocks(tokens, parameters, "paca", depth, norm, heads=heads, assignment=assignment)
    np.testing.assert_allclose(array(left), expected, atol=1e-11)
    assert right is generator.psi


@pytest.mark.parametrize("assignment", ["sigmoid", "softmax"])
def test_cluster_assignment(assignment: str) -> None:
    paca = filled(PaCaGenerator(6, 4, clusters=3, assignment=assignment)).blocks[0].tokens.branch
    x = torch.randn(5, 4, dtype=torch.float64)
    c = paca.clusters(x)
    assert c.shape == (3, 5)
    np.testing.assert_allclose(array(c), oracle.cluster_assignment(array(x), arrays(paca), assignment), atol=1e-13)
    if assignment == "softmax":
        torch.testing.assert_close(c.sum(dim=1), torch.ones(3, dtype=torch.float64))
        assert c.std() > 0  # the reference's returns ones
    else:
        assert array(c).max() < 1 / 5


def test_parameters() -> None:
    block = 8 * 16 + 7 * 4 + 3 * 4 + 3
    assert count(PaCaGenerator(6, 4, clusters=3, depth=2)) == 2 * 4 * 6 + 2 * block
    assert count(PaCaGenerator(6, 4, clusters=3, assignment="softmax")) == 2 * 4 * 6 + block - 3
    assert count(PaCaGenerator(6, 4)) == 2 * 4 * 6 + 8 * 16 + 7 * 4 + 64 * 4 + 64  # 64 clusters unless asked


def test_every_softmax_parameter_has_a_gradient() -> None:
    generator = filled(PaCaGenerator(6, 4, clusters=3, assignment="softmax"))
    left, right = generator(torch.randn(5, 6, dtype=torch.float64))
    (left @ right).square().sum().backward()
    for name, parameter in generator.named_parameters():
        # A constant added to all keys shifts every attention logit of a query alike.
        assert name.endswith("key.bias") or parameter.grad.abs().max() > 1e-9, name


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any tensor made inside it had."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.numel())
        return output


def test_no_tensor_is_quadratic_in_the_rows() -> None:
    rows, generator = 1024, PaCaGenerator(8, 4, clusters=16)
    weight = torch.randn(rows, 8)
    with Largest() as largest:
        left, _ = generator(weight)
        left.sum().backward()
    assert largest.numel <= rows * 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, r"clusters must be an integer of at least 1, got 0"),
        ({"clusters": True}, r"clusters must be an integer of at least 1, got True"),
        ({"assignment": "sofmax"}, r"assignment: 'sofmax' is not one of sigmoid, softmax; did you mean 'softmax'\?"),
        ({"norm": "layre"}, r"norm: 'layre' is not one of l2, layer, none; did you mean 'layer'\?"),
        ({"depth": 1.5}, r"depth must be an integer of at least 1, got 1.5"),
        ({"heads": 3}, r"heads: 3 does not divide the 4 channels"),
        ({"mlp_ratio": 0.1}, r"mlp_ratio must lie in \[0.25, inf\), got 0.1"),
        ({"drop_path": 1}, r"drop_path must lie in \[0, 1\), got 1"),
        ({"drop_path": "half"}, r"drop_path must lie in \[0, 1\), got 'half'"),
        ({"side": "output"}, r"side: output needs a generator that is linear in W, and PaCaGenerator is not"),
        ({"zero": "phi"}, r"PaCaGenerator can start at zero by psi only, got zero: phi; set zero: psi"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PaCaGenerator(6, 4, **options)
