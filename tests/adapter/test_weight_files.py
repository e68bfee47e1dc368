"""Every stored dtype and shape reads back row by row; broken files are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wegeft_pl.adapter.weight_files import DTYPES, INDEX, SINGLE, WeightFiles, read_header, read_rows


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {
        f"t.{dtype}".replace("torch.", ""): (torch.randn(5, 3, generator=generator) * 10).to(dtype)
        for dtype in DTYPES.values()
    }
    return found | {"scalar": torch.tensor(3.5), "vector": torch.arange(7), "empty": torch.zeros(0, 4)}


def test_one_file(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / SINGLE, metadata={"format": "pt"})
    files = WeightFiles(tmp_path)
    assert set(files) == set(tensors)
    assert files.files == [tmp_path / SINGLE]
    for name, tensor in tensors.items():
        entry = files[name]
        assert entry.dtype == tensor.dtype
        assert entry.shape == tuple(tensor.shape)
        whole = read_rows(entry, 0, len(tensor) if tensor.ndim else 1)
        assert whole.shape == tensor.shape
        assert whole.untyped_storage().tolist() == tensor.untyped_storage().tolist()
    rows = read_rows(files["t.bfloat16"], 1, 4)
    assert torch.equal(rows, tensors["t.bfloat16"][1:4])
    assert read_rows(files["t.bfloat16"], 2, 2).shape == (0, 3)


def test_several_files_with_an_index(tmp_path: Path) -> None:
    first, second = {"a": torch.randn(2, 2)}, {"b": torch.randn(3)}
    save_file(first, tmp_path / "model-1.safetensors")
    save_file(second, tmp_path / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    files = WeightFiles(tmp_path)
    assert [path.name for path in files.files] == ["model-1.safetensors", "model-2.safetensors"]
    assert torch.equal(read_rows(files["b"], 0, 3), second["b"])
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": index["weight_map"] | {"c": "model-1.safetensors"}}))
    with pytest.raises(ValueError, match=r"places c in model-1\.safetensors, which has no such tensor"):
        WeightFiles(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "model-3.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"no file .*model-3.safetensors"):
        WeightFiles(tmp_path)
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map"):
        WeightFiles(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor"):
        WeightFiles(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "short", "text", "header"])
def test_broken_files_are_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / SINGLE
    save_file({"a": torch.randn(50, 2)}, path)
    whole = path.read_bytes()
    broken = {
        "cut": whole[:-1],
        "short": whole[:5],
        "text": b"this is no model, whatever its name says",
        "header": whole[:8] + b"x" + whole[9:],
    }
    path.write_bytes(broken[damage])
    with pytest.raises(ValueError, match=r"model.safetensors is truncated or not a safetensors file"):
        WeightFiles(tmp_path)


def test_an_unknown_dtype_is_named(tmp_path: Path) -> None:
    path = tmp_path / SINGLE
    save_file({"a": torch.zeros(2)}, path)
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"F4X"'))
    with pytest.raises(ValueError, match="a has dtype F4X"):
        read_header(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / SINGLE
    save_file({"a": torch.zeros(100)}, path)
    entry = WeightFiles(tmp_path)["a"]
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="became shorter while a was read"):
        read_rows(entry, 0, 100)
