"""Adapter folders as plain values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from linear_adapters import Net, made

from wegeft_pl.adapter import SavedAdapter
from wegeft_pl.adapter.storage import read_json, read_tensors, write_json, write_tensors


@pytest.mark.parametrize("sharing", ["type", "layer", "all", [r".*0\.up", r".*1\.up", r".*down"]])
def test_folders_are_read_and_written_whole(tmp_path: Path, sharing: object) -> None:
    a = made(Net(), tmp_path, 1, sharing=sharing)
    a.write(tmp_path / "again")
    one, two = (read_tensors(tmp_path / folder / "adapter.safetensors") for folder in ("1", "again"))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    one, two = (read_json(tmp_path / folder / "adapter_config.json") for folder in ("1", "again"))
    assert one == two
    with pytest.raises(FileExistsError, match="exists; choose another folder"):
        a.write(tmp_path / "again")


def test_folders_that_cannot_be_computed_with(tmp_path: Path) -> None:
    net = Net()
    made(net, tmp_path, 1)
    tensors = read_tensors(tmp_path / "1/adapter.safetensors")
    for change, match in (
        ({"wegeft.up.phi": None}, "lacks phi or psi of group up; the file was cut or edited"),
        ({"wegeft.up.more": torch.ones(1)}, "has wegeft.up.more, which is of no group; the file was edited"),
    ):
        write_tensors(
            tmp_path / "1/adapter.safetensors", {n: v for n, v in (tensors | change).items() if v is not None}
        )
        with pytest.raises(ValueError, match=match):
            SavedAdapter.read(tmp_path / "1")
    description = read_json(tmp_path / "1/adapter_config.json")
    description["adapter"]["generator"] = "wegeft_pl.generators.SigmoidGenerator"
    write_json(tmp_path / "1/adapter_config.json", description)
    with pytest.raises(
        ValueError, match=r"has the generator .*SigmoidGenerator; only linear generators can be computed with"
    ):
        SavedAdapter.read(tmp_path / "1")
