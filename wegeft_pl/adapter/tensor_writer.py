"""A safetensors file that is filled in any order, by any process.

Names, dtypes and shapes are known beforehand, so the header is written first, the file gets its final size, and every
row has its place: whoever holds it writes it there.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wegeft_pl.adapter.weight_files import DTYPES, TensorEntry

#: Dtype and shape.
Spec = tuple[torch.dtype, tuple[int, ...]]


class TensorWriter:
    """One file, open for writing at its tensors' places.

    Args:
        file: where to write.
        tensors: dtype and shape by name, the same in every process.
        create: make the file, or with False join the process that has made it.

    Raises:
        OSError: the file cannot be made, or to join, does not exist.
    """

    def __init__(self, file: Path, tensors: Mapping[str, Spec], *, create: bool = True) -> None:
        header, self.entries = _lay_out(file, tensors)
        # Made with the permissions that any other tool's files have here.
        self._open = True
        self._handle = os.open(file, os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0), 0o666)
        if create:
            try:
                _write(self._handle, header, 0)
                os.ftruncate(self._handle, max((entry.stop for entry in self.entries.values()), default=len(header)))
            except OSError:
                self.abandon()
                raise

    def write_rows(self, name: str, first: int, rows: Tensor) -> None:
        """Writes rows to their place.

        Args:
            name: the tensor.
            first: index of the first row; 0 for a tensor without axes.
            rows: (n, ...) in the file's dtype, on any device.

        Raises:
            OSError: the disk is full.
        """
        entry = self.entries[name]
        assert rows.dtype == entry.dtype
        assert rows.shape[1:] == entry.shape[1:]
        assert not entry.shape or first + len(rows) <= entry.shape[0]
        data = rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        _write(self._handle, data.data, entry.start + first * entry.row_bytes)

    def close(self) -> None:
        """Waits until what this process wrote is on disk.

        Raises:
            OSError: it could not be written.
        """
        try:
            os.fsync(self._handle)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Closes the file as it is; nothing where it is closed."""
        if self._open:
            self._open = False
            os.close(self._handle)


def _lay_out(file: Path, tensors: Mapping[str, Spec]) -> tuple[bytes, dict[str, TensorEntry]]:
    """The header, and where each tensor goes: wide dtypes first, so that every one starts at a multiple of its size."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset, places = 0, {}
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
        stop = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [offset, stop]}
        places[name], offset = (offset, stop), stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    entries = {
        name: TensorEntry(name, file, *tensors[name], begin + start, begin + stop)
        for name, (start, stop) in places.items()
    }
    return len(text).to_bytes(8, "little") + text, entries


def _write(handle: int, data: bytes | memoryview, offset: int) -> None:
    view, done = memoryview(data), 0
    while done < len(view):  # one call writes at most 2 GiB
        done += os.pwrite(handle, view[done:], offset + done)
