"""Where each weight of a model lies on disk: one safetensors file, or several with an index.

Rows are read with plain reads into memory of their own. A memory map would count every page that was ever touched as
this process's memory, which is what reading only one's own part is meant to avoid.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wegeft_pl.adapter.storage import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

#: The names of dtypes in a safetensors header.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
#: No header of a model comes near this; a larger number means that the file is something else.
_LARGEST_HEADER = 100 * 2**20


@dataclass(frozen=True)
class TensorEntry:
    """One tensor in one file.

    Args:
        name: its key.
        file: the file.
        dtype: as stored.
        shape: as stored.
        start: first byte of its data, counted from the start of the file.
        stop: the byte behind its last one.
    """

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the first axis; of the whole tensor where it has no axes."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class WeightFiles(Mapping[str, TensorEntry]):
    """The tensors of a model folder by name.

    Args:
        folder: holds ``model.safetensors``, or ``model.safetensors.index.json`` and the files that it lists.

    Raises:
        FileNotFoundError: the folder has neither, or lacks a file that its index lists.
        ValueError: a file is truncated or no safetensors file, or the index names a tensor that its file has not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: The files, in the index's order.
        self.files: list[Path] = []
        self._entries: dict[str, TensorEntry] = {}
        listed = _listed(folder)
        for file in dict.fromkeys(listed.values()) if listed else [SINGLE]:
            self.files.append(folder / file)
            self._entries |= {entry.name: entry for entry in read_header(folder / file)}
        for name, file in listed.items():
            if name not in self._entries or self._entries[name].file != folder / file:
                raise ValueError(f"{folder / INDEX} places {name} in {file}, which has no such tensor; copy it again")

    @staticmethod
    def are_in(folder: Path) -> bool:
        """Whether a folder has weights as safetensors at all."""
        return (folder / SINGLE).is_file() or (folder / INDEX).is_file()

    def __getitem__(self, name: str) -> TensorEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def read_header(file: Path) -> list[TensorEntry]:
    """Lists the tensors of a safetensors file in the order of their data.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or no safetensors file, or holds a dtype that torch has not.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}; download or copy the model again")
    broken = f"{file} is truncated or not a safetensors file; download or copy it again"
    size = file.stat().st_size
    with open(file, "rb") as handle:
        first = handle.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else _LARGEST_HEADER + 1
        if length > min(_LARGEST_HEADER, size - 8):
            raise ValueError(broken)
        try:
            header = json.loads(handle.read(length))
        except ValueError as error:
            raise ValueError(broken) from error
    begin, entries = 8 + length, []
    for name, fields in header.items():
        if name == "__metadata__":
            continue
        if fields["dtype"] not in DTYPES:
            raise ValueError(f"{file}: {name} has dtype {fields['dtype']}; readable are {', '.join(DTYPES)}")
        start, stop = fields["data_offsets"]
        entry = TensorEntry(name, file, DTYPES[fields["dtype"]], tuple(fields["shape"]), begin + start, begin + stop)
        if entry.stop > size or entry.stop - entry.start != math.prod(entry.shape) * entry.dtype.itemsize:
            raise ValueError(broken)
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry.start)


def read_rows(entry: TensorEntry, first: int, last: int, memory: Tensor | None = None) -> Tensor:
    """Reads rows ``first`` to ``last - 1`` of a tensor, in its stored dtype, and nothing else of the file.

    Args:
        entry: the tensor; one without axes counts as one row.
        first: index along the first axis.
        last: the index behind the last row; ``first == last`` gives an empty tensor.
        memory: uint8, large enough, to read into; None takes fresh memory.

    Returns:
        A CPU tensor (last - first, ...), of shape () for a tensor without axes.

    Raises:
        ValueError: the file has become shorter since its header was read.
    """
    shape = (last - first, *entry.shape[1:]) if entry.shape else ()
    size = math.prod(shape) * entry.dtype.itemsize
    rows = torch.empty(shape, dtype=entry.dtype) if memory is None else memory[:size].view(entry.dtype).view(shape)
    if rows.numel() == 0:
        return rows
    target = rows.reshape(-1).view(torch.uint8).numpy().data
    offset, done = entry.start + first * entry.row_bytes, 0
    handle = os.open(entry.file, os.O_RDONLY)
    try:
        while done < len(target):  # one call reads at most 2 GiB
            count = os.preadv(handle, [target[done:]], offset + done)
            if count == 0:
                raise ValueError(f"{entry.file} became shorter while {entry.name} was read; copy it again")
            done += count
    finally:
        os.close(handle)
    return rows


def read_elements(entry: TensorEntry, indices: Tensor) -> Tensor:
    """Reads single elements of a tensor.

    Args:
        entry: the tensor.
        indices: int64 (n,), into the flattened tensor.

    Returns:
        A CPU tensor (n,) in the stored dtype.

    Raises:
        ValueError: the file has become shorter since its header was read.
    """
    size = entry.dtype.itemsize
    handle = os.open(entry.file, os.O_RDONLY)
    try:
        data = bytearray().join(os.pread(handle, size, entry.start + size * index) for index in indices.tolist())
    finally:
        os.close(handle)
    if len(data) != size * len(indices):
        raise ValueError(f"{entry.file} became shorter while {entry.name} was read; copy it again")
    return torch.frombuffer(data, dtype=entry.dtype) if data else torch.empty(0, dtype=entry.dtype)


def _listed(folder: Path) -> dict[str, str]:
    """The index's file names by tensor name; empty where the folder has one file."""
    if (folder / SINGLE).is_file():
        return {}
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{folder} has neither {SINGLE} nor {INDEX}; save the model as safetensors")
    listed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{folder / INDEX} has no weight_map; download or copy it again")
    return listed
