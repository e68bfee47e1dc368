"""One plain-text file as windows of tokens: the simplest causal language modelling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from wegeft_pl.data.rows import missing, read_text, sha256
from wegeft_pl.data.text.base import TextDataModule, check_least
from wegeft_pl.data.text.collate import LossCollator
from wegeft_pl.data.text.sources import Split, find_path
from wegeft_pl.data.text.tokenize import Tokenizer, encode_plain, leading_ids
from wegeft_pl.data.text.windows import TokenWindows, WindowOrder


class PlainTextDataModule(TextDataModule):
    """Non-overlapping windows of one text file; the end of the file is held out for validation and test.

    Every token is a label except a window's first. A last, shorter window is kept, so that every held-out token counts
    once. There is no answer to score: the measure is the loss, or its exponential, the perplexity.

    Args:
        path: a .txt file, or a folder with input.txt; it must be given.
        tokenizer: hub id or folder of the tokenizer; null: the task's own.
        window: tokens per window, BOS included.
        bos: whether each window begins with BOS; null: as the tokenizer does with a text.
        val_fraction: the share of the file's characters, at its end, that is held out.
        random_phase: whether each epoch cuts the training windows at other places.
        batch_size: training windows per batch and process.
        eval_batch_size: held-out windows per batch and process; null: as ``batch_size``.
        num_workers: processes that collate batches; 0 is right nearly always.
        pad_to_multiple_of: round sequence lengths up to a multiple of this; null: no rounding.
        seed: seed of the training order and of the phase.

    Raises:
        ValueError: a value is out of range.

    Source: METHOD.md section 10.
    """

    def __init__(
        self,
        path: str | None = None,
        tokenizer: str | None = None,
        window: int = 256,
        bos: bool | None = None,
        val_fraction: float = 0.1,
        random_phase: bool = False,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pad_to_multiple_of: int | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__(path, tokenizer, batch_size, eval_batch_size, num_workers, pad_to_multiple_of, seed)
        check_least("window", window, 2)
        if not 0 < val_fraction < 1:
            raise ValueError(f"data.val_fraction must lie between 0 and 1, got {val_fraction}")
        self.window = window
        self.bos = bos
        self.val_fraction = val_fraction
        self.random_phase = random_phase
        self._sha256: dict[str, str] = {}
        self._counts: dict[str, dict[str, int]] = {"rows": {}, "characters": {}, "tokens": {}, "labelled_tokens": {}}

    def build_split(self, split: Split, tokenizer: Tokenizer) -> Dataset:
        """Tokenises the first part of the file (train) or its end (val and test alike) and cuts it into windows."""
        if split == "test" and self._splits.get("val") is not None:
            for counts in self._counts.values():
                counts["test"] = counts["val"]
            return self._splits["val"]  # type: ignore[return-value]
        file = self._file()
        text = read_text(file)
        self._sha256[file.name] = sha256(file)
        cut = len(text) - round(len(text) * self.val_fraction)
        part = text[:cut] if split == "train" else text[cut:]
        tokens = encode_plain(tokenizer, part)
        leading = self._leading(tokenizer, part[:100])
        offset = self.window - len(leading) - 1 if self.random_phase and split == "train" else 0
        try:
            windows = TokenWindows(tokens, self.window, leading, offset)
        except ValueError as error:
            raise ValueError(f"{file}, {split}: {error}") from None
        self._counts["rows"][split] = len(windows)
        self._counts["characters"][split] = len(part)
        self._counts["tokens"][split] = len(tokens)
        self._counts["labelled_tokens"][split] = windows.num_labels
        return windows

    def make_order(self, dataset: Any, batch_size: int, shuffle: bool) -> WindowOrder:
        """Makes the order of windows: seeded and shuffled in training, file order otherwise."""
        assert isinstance(dataset, TokenWindows)
        phase = self.random_phase and shuffle
        return WindowOrder(dataset, phase, batch_size, shuffle, self.seed, *self.shares())

    def make_collate(self, split: Split) -> Callable[[list[Any]], Any]:
        """Makes the collator; only a split's last window may need padding."""
        return LossCollator(self.pad_id, self.pad_to_multiple_of)

    def describe(self) -> dict[str, object]:
        """Returns name, path, file hash, window, and counts by split, in plain JSON types."""
        return {
            "name": type(self).__name__,
            "path": self.path,
            "sha256": dict(self._sha256),
            "window": self.window,
            "bos": self.bos,
            "val_fraction": self.val_fraction,
            "random_phase": self.random_phase,
            "seed": self.seed,
            **{name: dict(counts) for name, counts in self._counts.items()},
        }

    def _file(self) -> Path:
        if self.path is None:
            raise ValueError("data.path is null, and plain text has no place on the hub; give a .txt file or a folder")
        found = find_path(self.path)
        if found.is_dir():
            found = found / "input.txt"
            if not found.exists():
                raise FileNotFoundError(f"data.path: {missing(found)}; a folder must have input.txt")
        return found

    def _leading(self, tokenizer: Tokenizer, text: str) -> list[int]:
        if self.bos is None:
            return leading_ids(tokenizer, text)
        if self.bos and tokenizer.bos_token_id is None:
            raise ValueError("data.bos is true, but the tokenizer has no BOS token; set data.bos to null or false")
        return [tokenizer.bos_token_id] if self.bos else []
