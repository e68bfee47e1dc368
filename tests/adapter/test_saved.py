"""Adapter folders as plain values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter.linear_adapters import Net, made

from wegeft_pl.adapter import SavedAdapter
from wegeft_pl.adapter.algebra import add, compose, negate
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


def test_what_the_task_said_is_kept(tmp_path: Path) -> None:
    net = Net()
    one, two = made(net, tmp_path, 1), made(net, tmp_path, 2)
    for folder, names in (("1", ["a", "b"]), ("2", ["b", "a"])):
        path = tmp_path / folder / "adapter_config.json"
        about = {"task": "image_classification", "num_classes": 2, "class_names": names}
        write_json(path, read_json(path) | {"about": about | ({"weights": "w"} if folder == "1" else {})})
    one, two = SavedAdapter.read(tmp_path / "1"), SavedAdapter.read(tmp_path / "2")
    one.write(tmp_path / "again")
    before, again = (read_json(tmp_path / folder / "adapter_config.json") for folder in ("1", "again"))
    assert before == again
    # Of two, what both say: the classes have other names, and one names weights.
    assert add(one, two).about == compose(one, two).about == {"task": "image_classification", "num_classes": 2}
    assert negate(one).about == one.about


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
