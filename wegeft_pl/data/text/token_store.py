"""Tokenised samples in files that are mapped into memory, so that a data set may be larger than that."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from wegeft_pl.data.text.tokenize import EncodedExample
from wegeft_pl.losses import IGNORED

#: Of the layout below; another one is not read.
VERSION = 1
#: Name and type of each file; ``rows`` holds five numbers a sample: where its tokens begin, how many of them are input,
#: how many are the prompt, whether it was cut, and how many labels count.
FILES = {"ids": np.int32, "labelled": np.uint8, "rows": np.int64}
_FIELDS = 5
_BLOCK = 1 << 24


class EncodedFacts(NamedTuple):
    """Sizes of N samples, each (N,) int64.

    Args:
        lengths: tokens of the input.
        prompt_lengths: tokens of the uncut prompt.
        truncated: 1 where something was cut off.
        num_labels: tokens that the loss counts.
    """

    lengths: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    truncated: NDArray[np.int64]
    num_labels: NDArray[np.int64]


def facts_of(examples: Sequence[EncodedExample]) -> EncodedFacts:
    """Returns the sizes of samples, in memory or stored."""
    if isinstance(examples, TokenStore):
        return examples.facts
    sizes = [(len(one.input_ids), one.prompt_length, int(one.truncated), one.num_labels) for one in examples]
    return EncodedFacts(*np.array(sizes, dtype=np.int64).reshape(-1, 4).T)


class Chosen(Sequence[EncodedExample]):
    """Some samples of a sequence, looked up as they are asked for.

    Args:
        examples: all of them.
        numbers: (N,) which.
    """

    def __init__(self, examples: Sequence[EncodedExample], numbers: NDArray[np.int64]) -> None:
        self._examples = examples
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, number: int) -> EncodedExample: ...
    @overload
    def __getitem__(self, number: slice) -> list[EncodedExample]: ...
    def __getitem__(self, number: int | slice) -> EncodedExample | list[EncodedExample]:
        """Returns one sample, or several."""
        if isinstance(number, slice):
            return [self._examples[int(one)] for one in self._numbers[number]]
        return self._examples[int(self._numbers[number])]


class BrokenStoreError(Exception):
    """A store's files are not what its own description says."""


class TokenStore(Sequence[EncodedExample]):
    """Reads samples that :func:`write_store` wrote, each as it is asked for.

    Args:
        folder: of the files.

    Raises:
        BrokenStoreError: a file is missing, has another size, or is of another version of this package.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            facts = json.loads((folder / "store.json").read_text())
            if facts["version"] != VERSION:
                raise BrokenStoreError(f"version {facts['version']}, not {VERSION}")
            self._checksums: dict[str, int] = facts["crc32"]
            self._ids = self._map("ids", facts["tokens"])
            self._labelled = self._map("labelled", facts["tokens"])
            self._rows = self._map("rows", facts["samples"] * _FIELDS).reshape(-1, _FIELDS)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BrokenStoreError(str(error)) from error

    def _map(self, name: str, size: int) -> NDArray[np.generic]:
        file, kind = self.folder / f"{name}.bin", np.dtype(FILES[name])
        if file.stat().st_size != size * kind.itemsize:
            raise BrokenStoreError(f"{file.name} has {file.stat().st_size} bytes instead of {size * kind.itemsize}")
        return np.memmap(file, dtype=kind, mode="r", shape=(size,))

    def check(self) -> None:
        """Reads all files once.

        Raises:
            BrokenStoreError: a checksum is another one.
        """
        for name in FILES:
            with (self.folder / f"{name}.bin").open("rb") as file:
                found = 0
                while block := file.read(_BLOCK):
                    found = zlib.crc32(block, found)
            if found != self._checksums.get(name):
                raise BrokenStoreError(f"{name}.bin has another checksum")

    @property
    def facts(self) -> EncodedFacts:
        """The sizes of all samples, without reading their tokens."""
        return EncodedFacts(*(np.array(self._rows[:, field], dtype=np.int64) for field in (1, 2, 3, 4)))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> EncodedExample: ...
    @overload
    def __getitem__(self, number: slice) -> list[EncodedExample]: ...
    def __getitem__(self, number: int | slice) -> EncodedExample | list[EncodedExample]:
        """Returns one sample, or several."""
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        start, num_input, num_prompt, cut, _ = self._rows[number].tolist()
        ids: list[int] = self._ids[start : start + max(num_input, num_prompt)].tolist()
        labelled = self._labelled[start : start + num_input].tolist()
        labels = [token if counts else IGNORED for token, counts in zip(ids, labelled, strict=False)]
        return EncodedExample(ids[:num_input], labels, ids[:num_prompt], bool(cut))

    def __reduce__(self) -> tuple[type[TokenStore], tuple[Path]]:
        """Another process opens the files itself."""
        return TokenStore, (self.folder,)


def write_store(folder: Path, examples: Iterable[EncodedExample]) -> None:
    """Writes samples as they come, without holding them; the last file says that the others are whole.

    Args:
        folder: made here.
        examples: whose input begins with the prompt as far as it reaches, and whose labels are the input or -100.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    folder.mkdir(parents=True)
    checksums, samples, tokens = dict.fromkeys(FILES, 0), 0, 0
    files = {name: (folder / f"{name}.bin").open("wb") for name in FILES}
    try:
        for example in examples:
            inputs, prompt, labels = example.input_ids, example.prompt_ids, example.labels
            shorter = min(len(inputs), len(prompt))
            assert inputs[:shorter] == prompt[:shorter]
            assert all(label in (IGNORED, token) for label, token in zip(labels, inputs, strict=True))
            stored = inputs if len(inputs) >= len(prompt) else prompt
            labelled = [label != IGNORED for label in labels] + [False] * (len(stored) - len(labels))
            values = {
                "ids": stored,
                "labelled": labelled,
                "rows": [tokens, len(inputs), len(prompt), int(example.truncated), example.num_labels],
            }
            for name, kind in FILES.items():
                data = np.asarray(values[name], dtype=kind).tobytes()
                checksums[name] = zlib.crc32(data, checksums[name])
                files[name].write(data)
            samples, tokens = samples + 1, tokens + len(stored)
    finally:
        for file in files.values():
            file.close()
    facts = {"version": VERSION, "samples": samples, "tokens": tokens, "crc32": checksums}
    (folder / "store.json").write_text(json.dumps(facts))
