from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from wegeft_pl.adapter.tensor_writer import Spec, TensorWriter
from wegeft_pl.adapter.weight_files import read_header

TENSORS = {
    "b.weight": torch.randn(5, 3),
    "a.weight": torch.randn(4, 2, 3).bfloat16(),
    "scalar": torch.tensor(2.5),
    "wide": torch.randn(2, dtype=torch.float64),
    "count": torch.arange(3),
    "mask": torch.tensor([True, False, True]),
    "empty": torch.empty(0, 4),
}
SPECS: dict[str, Spec] = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}


def test_filled_in_any_order_it_is_what_safetensors_writes(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    writer, other = TensorWriter(file, SPECS), TensorWriter(file, SPECS, create=False)
    for name in reversed(TENSORS):
        tensor = TENSORS[name]
        if tensor.ndim and len(tensor):
            other.write_rows(name, 1, tensor[1:])
            writer.write_rows(name, 0, tensor[:1])
        else:
            writer.write_rows(name, 0, tensor)
    writer.close()
    other.close()
    loaded = load_file(file)
    assert loaded.keys() == TENSORS.keys()
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )
    with safe_open(file, framework="pt") as handle:
        assert handle.metadata() == {"format": "pt"}
    assert all(entry.start % entry.dtype.itemsize == 0 for entry in read_header(file))


def test_one_dtype_gives_the_very_bytes_of_safetensors(tmp_path: Path) -> None:
    tensors = {name: tensor.float() for name, tensor in TENSORS.items()}
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    writer = TensorWriter(tmp_path / "ours", {name: (torch.float32, tuple(t.shape)) for name, t in tensors.items()})
    for name, tensor in tensors.items():
        writer.write_rows(name, 0, tensor)
    writer.close()
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_permissions_are_those_of_any_other_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        TensorWriter(tmp_path / "file", SPECS).close()
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_file_is_made_once_and_joined_only_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TensorWriter(tmp_path / "file", SPECS, create=False)
    TensorWriter(tmp_path / "file", SPECS).close()
    with pytest.raises(FileExistsError):
        TensorWriter(tmp_path / "file", SPECS)


def test_a_full_disk_is_an_error_and_leaves_no_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = TensorWriter(tmp_path / "file", SPECS)
    held = len(os.listdir("/proc/self/fd"))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        writer.write_rows("count", 0, TENSORS["count"])
    with pytest.raises(OSError, match="No space left"):
        TensorWriter(tmp_path / "other", SPECS)
    assert len(os.listdir("/proc/self/fd")) == held
    writer.abandon()
    writer.abandon()
    assert len(os.listdir("/proc/self/fd")) == held - 1
