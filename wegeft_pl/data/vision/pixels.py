"""Decoded and resized pixels on disk, so that later epochs and runs only read them.

Shapes: H, W of a resized image.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wegeft_pl.data.rows import sha256_lines
from wegeft_pl.data.vision.build_once import build_once
from wegeft_pl.data.vision.decode import UnreadableImageError, decode
from wegeft_pl.data.vision.stored import StoredImage
from wegeft_pl.data.vision.transforms import ImageSize

#: Changes where the same image would give other pixels or be laid out in another way.
_FORMAT = "wegeft_pl pixels 1"
#: Most images that are decoded but not yet written.
_CHUNK = 256
#: How much larger than a square an image whose shape is kept is taken to be.
_USUAL_SHAPE = 1.5


class CachedPixels:
    """Resized images of a split in one file, mapped into memory and shared by all processes of a machine.

    Args:
        folder: that :func:`keep_pixels` made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Rows that could not be read, each with the reason.
        self.unreadable = _read_unreadable(folder)
        self._index = np.load(folder / "index.npy", allow_pickle=False)
        self._bytes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, row: int) -> Tensor:
        """Returns a copy of (3, H, W) uint8."""
        if self._bytes is None:
            self._bytes = np.memmap(self.folder / "pixels.bin", np.uint8, "r")
        start, height, width = (int(number) for number in self._index[row])
        pixels = self._bytes[start : start + 3 * height * width].reshape(3, height, width)
        return torch.from_numpy(np.array(pixels))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_bytes": None}  # a worker maps the file again, rather than receive a copy of it


def estimated_mib(num_images: int, size: ImageSize) -> float:
    """Estimates what the pixels of a split take, in MiB; exact where images are resized to a square.

    Example:
        >>> estimated_mib(1000, ImageSize(224))
        143.5546875
    """
    shape = 1.0 if size.resize == "exact" else _USUAL_SHAPE
    return num_images * 3 * size.resized**2 * shape / 2**20


def keep_pixels(images: Sequence[StoredImage], size: ImageSize, folder: Path) -> CachedPixels:
    """Decodes and resizes images once, or finds them done by an earlier run or another process.

    The folder's name comes from every file's path, size and time of change and from how images are resized, so
    changed images are never served from what was kept before.

    Args:
        images: of a split.
        size: how they are resized.
        folder: where folders of pixels are kept.

    Returns:
        Their pixels, and which of them cannot be read.

    Raises:
        FileNotFoundError: an image is not there.
        OSError: the folder cannot be written.
    """
    how = f"{size.resize} {size.resized} {size.interpolation}"
    kept = folder / sha256_lines([_FORMAT, how, *(image.stamp() for image in images)])[:32]
    return CachedPixels(build_once(kept, partial(_write_pixels, images, size)))


def find_unreadable(images: Sequence[StoredImage], folder: Path | None) -> dict[int, str]:
    """Decodes every image once to see which cannot be read; later runs find the answer in ``folder``.

    Args:
        images: of a split.
        folder: where answers are kept; None: nowhere.

    Returns:
        Row to reason.

    Raises:
        FileNotFoundError: an image is not there.
        OSError: the folder cannot be written.
    """

    def find() -> dict[int, str]:
        return {row: result for row, result in enumerate(_decoded(images, None)) if isinstance(result, str)}

    if folder is None:
        return find()
    kept = folder / sha256_lines([f"{_FORMAT} unreadable", *(image.stamp() for image in images)])[:32]
    return _read_unreadable(build_once(kept, lambda target: _write_unreadable(target, find())))


def num_cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _write_pixels(images: Sequence[StoredImage], size: ImageSize, target: Path) -> None:
    index = np.zeros((len(images), 3), np.int64)
    broken: dict[int, str] = {}
    with (target / "pixels.bin").open("wb") as file:
        for row, result in enumerate(_decoded(images, size)):
            if isinstance(result, str):
                broken[row] = result
            else:
                index[row] = file.tell(), *result.shape[1:]
                file.write(result.tobytes())
        file.flush()
        os.fsync(file.fileno())
    np.save(target / "index.npy", index, allow_pickle=False)
    _write_unreadable(target, broken)


def _decoded(images: Sequence[StoredImage], size: ImageSize | None) -> Iterator[np.ndarray | str]:
    """Yields for each image its pixels (3, H, W), or the message where it cannot be read."""

    def read(image: StoredImage) -> np.ndarray | str:
        try:
            found = decode(image)
        except UnreadableImageError as error:
            return str(error)
        return np.empty(0) if size is None else size.shrink(found).numpy()

    # Threads: decoding and resizing let go of the interpreter.
    with ThreadPoolExecutor(num_cpus()) as pool:
        for start in range(0, len(images), _CHUNK):
            yield from pool.map(read, images[start : start + _CHUNK])


def _write_unreadable(target: Path, reasons: dict[int, str]) -> None:
    (target / "unreadable.json").write_text(json.dumps(reasons), encoding="utf-8")


def _read_unreadable(folder: Path) -> dict[int, str]:
    reasons = json.loads((folder / "unreadable.json").read_text(encoding="utf-8"))
    return {int(row): reason for row, reason in reasons.items()}
