from __future__ import annotations

import pytest
import torch

from wegeft_pl.adapter.part import Part

#: Two heads of [q q k v v v], six features each.
PARTS = Part.named({"q": 2, "k": 1, "v": 3}, 12, "attn.qkv")
FEATURES = {"q": [0, 1, 6, 7], "k": [2, 8], "v": [3, 4, 5, 9, 10, 11]}


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_part_takes_its_features_of_every_period(name: str, axis: int) -> None:
    tensor = torch.randn(12, 12)
    taken = PARTS[name].take(tensor, axis)
    assert torch.equal(taken, tensor.index_select(axis, torch.tensor(FEATURES[name])))
    placed = PARTS[name].place(taken, axis)
    assert placed.shape == tensor.shape
    rest = [feature for feature in range(12) if feature not in FEATURES[name]]
    assert not placed.index_select(axis, torch.tensor(rest)).any()
    assert torch.equal(PARTS[name].take(placed, axis), taken)
    assert PARTS[name].size == len(FEATURES[name])
    assert PARTS[name].mask().nonzero().flatten().tolist() == FEATURES[name]


def test_one_period_is_a_view() -> None:
    weight = torch.randn(9, 4)
    part = Part.named({"q": 3, "k": 3, "v": 3}, 9, "qkv")["v"]
    assert part.take(weight, 0).data_ptr() == weight[6:].data_ptr()


@pytest.mark.parametrize("sizes", [{}, {"q": 0, "k": 2}, {"q": 5}])
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"fused: parts of .* do not divide the 12 output features of attn.qkv"):
        Part.named(sizes, 12, "attn.qkv")
