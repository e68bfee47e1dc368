"""An adapter on another base than its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter.linear_adapters import SIDES, Net, applied, arrays, assert_equal, made
from torch import nn
from transformers import LlamaForCausalLM

from wegeft_pl import load_adapter, merge
from wegeft_pl.adapter import SavedAdapter, adapter_of, rebase


@SIDES
def test_rebase_takes_phi_and_psi_over_and_records_it(tmp_path: Path, side: str) -> None:
    net, other = Net(), Net()
    a = made(net, tmp_path, 1, side=side)
    with pytest.raises(ValueError, match="was trained on another base"):
        load_adapter(other, tmp_path / "1")
    old = arrays(other)
    adapter = rebase(tmp_path / "1", other)
    assert adapter.history == [{"rebased_from": a.base.to_dict()}]
    adapter.save(tmp_path / "moved")
    adapter.remove()
    assert load_adapter(other, tmp_path / "moved").history == adapter.history
    saved = SavedAdapter.read(tmp_path / "moved")
    assert saved.base != a.base
    assert all(
        torch.equal(f.phi, a.groups[n].phi) and torch.equal(f.psi, a.groups[n].psi) for n, f in saved.groups.items()
    )
    twin = Net()
    twin.load_state_dict({n: torch.from_numpy(v) for n, v in old.items()})
    merge(twin, load_adapter(twin, tmp_path / "moved"))
    assert_equal(arrays(twin), applied(old, a))


def test_rebase_refuses_its_own_base_and_other_shapes(tmp_path: Path, llama: LlamaForCausalLM) -> None:
    net = Net()
    made(net, tmp_path, 1)
    with pytest.raises(ValueError, match=r"was trained on this base .Net-.*load it with load_adapter"):
        rebase(tmp_path / "1", net)
    assert adapter_of(net) is None
    wide = Net()
    for block in wide.blocks:
        block["up"], block["down"] = nn.Linear(5, 9), nn.Linear(9, 5)
    with pytest.raises(ValueError, match=r"wegeft.up.phi has shape .6, 3., expected .5, 3."):
        rebase(tmp_path / "1", wide)
    assert adapter_of(wide) is None
    with pytest.raises(ValueError, match="no module matches 'up'"):
        rebase(tmp_path / "1", llama)
