"""What every text data module is: splits tokenised once, with the task's tokenizer or one of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import Dataset

from wegeft_pl.backbones.huggingface import load_tokenizer
from wegeft_pl.data.base import FineTuneDataModule
from wegeft_pl.data.base import check_least as check_least
from wegeft_pl.data.sources import Split
from wegeft_pl.data.text.collate import blank, get_pad_id
from wegeft_pl.data.text.tokenize import Tokenizer


class TextDataModule(FineTuneDataModule):
    """Tokenises the splits that a stage needs, once, and serves them in seeded batches.

    A subclass says how a split is built and batched. The tokenizer comes from the task unless it is named here.

    Args:
        path: the data: a local file or folder, or ``bundled:NAME``; see the subclass for null.
        tokenizer: hub id or folder of the tokenizer; null: the task's own.
        batch_size: training sequences per batch and process.
        eval_batch_size: validation and test sequences per batch and process; null: as ``batch_size``.
        num_workers: processes that collate batches; 0 is right nearly always, since nothing is tokenised then.
        pad_to_multiple_of: round sequence lengths of a batch up to a multiple of this; null: no rounding.
        seed: seed of the training order and of rows held out by size.

    Raises:
        ValueError: a size is below its least value.
    """

    def __init__(
        self,
        path: str | None,
        tokenizer: str | None,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
        pad_to_multiple_of: int | None,
        seed: int,
    ) -> None:
        super().__init__(path, batch_size, eval_batch_size, num_workers, seed)
        self.tokenizer = tokenizer
        self.pad_to_multiple_of = pad_to_multiple_of
        check_least("pad_to_multiple_of", pad_to_multiple_of, 1)
        self._encoded_with: Tokenizer | None = None

    @abstractmethod
    def build_split(self, split: Split, tokenizer: Tokenizer) -> Dataset | None:
        """Reads and tokenises one split; None when the data has no such split."""

    @property
    def answer_extractors(self) -> Mapping[str, Callable[[str], str | None]]:
        """Names of scores and how each finds the answer in a generated text, the headline first; empty: no scores."""
        return {}

    def setup(self, stage: str | None = None) -> None:
        """Builds the splits of a stage that are not built yet; null: all of them.

        Raises:
            ValueError: no tokenizer is to be had, or the stage's own split does not exist.
        """
        tokenizer = self.resolve_tokenizer()
        if tokenizer is not self._encoded_with:  # another task's tokenizer: ids from the old one would be wrong
            self._splits.clear()
            self._encoded_with = tokenizer
        super().setup(stage)

    def make_split(self, split: Split) -> Dataset | None:
        """Builds the dataset of one split with the tokenizer that setup found."""
        assert self._encoded_with is not None
        return self.build_split(split, self._encoded_with)

    def how_to_add(self, split: Split) -> str:
        """Words the way out where the data has no rows of a split that is needed."""
        return f"add a {split}.jsonl to the folder, or hold rows out of train with data.{split}_size"

    def make_blank(self, batch: Any) -> Any:
        """Takes labels and ids off a batch that only keeps a process in step with the others."""
        return blank(batch)

    def resolve_tokenizer(self) -> Tokenizer:
        """Returns the tokenizer named here, or else the task's.

        Raises:
            ValueError: none is named and no trainer with a task is attached.
        """
        if self.tokenizer is not None:
            if self._encoded_with is None:
                self._encoded_with = load_tokenizer(self.tokenizer)
            return self._encoded_with
        if self.trainer is None:
            raise ValueError("no tokenizer: give the data module one (tokenizer=...), or attach it to a Trainer's task")
        return self.trainer.lightning_module.tokenizer  # type: ignore[return-value]

    def preview(self, num_samples: int) -> dict[str, Any]:
        """Adds samples with what is learned in them, lengths, and the share of padding."""
        from wegeft_pl.data.text.preview import text_preview  # which knows the datasets of modules derived from this

        settings = (self.batch_size, self.packed_length, self.seed, num_samples)
        return {**super().preview(num_samples), "text": text_preview(self._splits, self.resolve_tokenizer(), *settings)}

    @property
    def packed_length(self) -> int | None:
        """Tokens of a packed row; None where rows cannot be packed."""
        return None

    @property
    def pad_id(self) -> int:
        """The id that pads batches."""
        assert self._encoded_with is not None
        return get_pad_id(self._encoded_with)
