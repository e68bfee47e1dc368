"""Question-answer rows as prompts and responses: splits, held-out rows, encoding and counting."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from torch.utils.data import Dataset

from wegeft_pl.data.rows import read_rows, sha256, sha256_rows
from wegeft_pl.data.text.base import TextDataModule, check_least
from wegeft_pl.data.text.collate import LossCollator, ScoreCollator, ScoredExample
from wegeft_pl.data.text.prompts import get_template
from wegeft_pl.data.text.sources import Split, find_files, read_hub_rows
from wegeft_pl.data.text.splits import NumberedRows, hold_out
from wegeft_pl.data.text.tokenize import ExampleEncoder, Tokenizer


class Examples(Dataset[Any]):
    """A list of examples as a dataset."""

    def __init__(self, examples: Sequence[Any]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index]


class PromptedDataModule(TextDataModule):
    """Rows of a question and an answer, formatted by a prompt template, with the loss on the response.

    A subclass names the hub data set and says how a gold answer's reference is found. A row's id is its position in
    the file it comes from. Rows without a label left after truncation are dropped from training and counted; in
    validation and test they stay, because their prompt can still be answered, and add nothing to the loss. Validation
    and test run longest prompt first, so ``limit_val`` and ``limit_test`` take a fair part of a split and the
    trainer's ``limit_val_batches`` does not.

    Args:
        path: a folder with train, and perhaps val and test (.jsonl or .json); a single such file; ``bundled:NAME``;
            null: the data set on the hub.
        tokenizer: see :class:`TextDataModule`.
        question_column: the column with the question.
        answer_column: the column with the gold answer.
        prompt: a template's name (qa, alpaca, plain) or a text with ``{question}``.
        max_length: most tokens of prompt, response and EOS; longer sequences are cut on the right, counted, and
            told of at setup.
        train_on_prompt: whether the loss counts the prompt too.
        val_size: rows held out of train for validation; 0: none, unless the folder has a val file.
        test_size: rows held out of train for test; 0: none, unless there is a test file.
        limit_train: keep the first rows of the split only; null: all.
        limit_val: the same for validation.
        limit_test: the same for test.
        batch_size: see :class:`TextDataModule`, as the rest.
        eval_batch_size: see there.
        num_workers: see there.
        pad_to_multiple_of: see there.
        seed: see there.

    Raises:
        ValueError: a size is out of range, or the prompt template is unknown.
    """

    #: Id and configuration on the hub, and the hub's names of the splits.
    hub: ClassVar[tuple[str, str]]
    hub_splits: ClassVar[dict[Split, str]] = {"train": "train", "test": "test"}

    def __init__(
        self,
        path: str | None,
        tokenizer: str | None,
        question_column: str,
        answer_column: str,
        prompt: str,
        max_length: int,
        train_on_prompt: bool,
        val_size: int,
        test_size: int,
        limit_train: int | None,
        limit_val: int | None,
        limit_test: int | None,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
        pad_to_multiple_of: int | None,
        seed: int,
    ) -> None:
        super().__init__(path, tokenizer, batch_size, eval_batch_size, num_workers, pad_to_multiple_of, seed)
        self.columns = (question_column, answer_column)
        self.template = get_template(prompt)
        self.max_length = max_length
        self.train_on_prompt = train_on_prompt
        self.sizes: dict[Split, int] = {"val": val_size, "test": test_size}
        self.limits: dict[Split, int | None] = {"train": limit_train, "val": limit_val, "test": limit_test}
        check_least("max_length", max_length, 1)
        for split, size in self.sizes.items():
            check_least(f"{split}_size", size, 0)
        for split, limit in self.limits.items():
            check_least(f"limit_{split}", limit, 1)
        self._rows: dict[Split, NumberedRows] | None = None
        self._sha256: dict[str, str] = {}
        self._counts: dict[str, dict[str, int]] = {
            name: {} for name in ("rows", "truncated", "dropped", "unlabelled", "tokens", "labelled_tokens")
        }

    @abstractmethod
    def reference(self, answer: str) -> str | None:
        """Finds the part of a gold answer that is scored; None when the gold answer is malformed."""

    @abstractmethod
    def malformed(self, answer: str) -> str:
        """Says what is wrong with a gold answer that has no reference."""

    def prepare_data(self) -> None:
        """Fetches the hub's copy once per machine, before all processes read it."""
        if self.path is None:
            self._read()

    def build_split(self, split: Split, tokenizer: Tokenizer) -> Dataset | None:
        """Reads, checks and encodes one split; see the class."""
        if self._rows is None:
            self._rows = self._read()
        rows = self._rows[split][: self.limits[split]]
        if not rows:
            return None
        encoder = ExampleEncoder(tokenizer, self.max_length, self.train_on_prompt)
        question_column, answer_column = self.columns
        examples = []
        for number, row in rows:
            reference = self.reference(row[answer_column])
            if reference is None:
                raise ValueError(f"{row.place}: {self.malformed(row[answer_column])}")
            prompt = self.template.format_prompt(row[question_column])
            encoded = encoder.encode(prompt, self.template.format_response(row[answer_column]))
            examples.append(ScoredExample(number, prompt, reference, encoded))
        kept = [example for example in examples if example.encoded.has_label]
        if not kept:
            shortest = min(example.encoded.prompt_length for example in examples)
            raise ValueError(
                f"{split}: none of {len(examples)} rows has a label left at data.max_length={self.max_length}; "
                f"the shortest prompt has {shortest} tokens: raise data.max_length above that"
            )
        self._count(split, examples, kept)
        if split == "train":
            return Examples([example.encoded for example in kept])
        return Examples(sorted(examples, key=lambda example: -example.encoded.prompt_length))

    def make_collate(self, split: Split) -> Callable[[list[Any]], Any]:
        """Makes the collator: loss tensors for train, and prompts and references beside them for the rest."""
        collator = LossCollator if split == "train" else ScoreCollator
        return collator(self.pad_id, self.pad_to_multiple_of)

    def describe(self) -> dict[str, object]:
        """Returns name, path, rows, file hashes, template, and counts by split, in plain JSON types."""
        return {
            "name": type(self).__name__,
            "path": self.path if self.path is not None else "/".join(self.hub),
            "sha256": dict(self._sha256),
            "prompt": self.template.prompt,
            "response": self.template.response,
            "stop": list(self.template.stop),
            "max_length": self.max_length,
            "train_on_prompt": self.train_on_prompt,
            "seed": self.seed,
            **{name: dict(counts) for name, counts in self._counts.items()},
        }

    def _read(self) -> dict[Split, NumberedRows]:
        found: dict[Split, NumberedRows] = {}
        if self.path is None:
            for split, name in self.hub_splits.items():
                rows = read_hub_rows(*self.hub, name, self.columns)
                found[split] = list(enumerate(rows))
                self._sha256[name] = sha256_rows(rows)
        else:
            for split, file in find_files(self.path).items():
                found[split] = list(enumerate(read_rows(file, self.columns)))
                self._sha256[file.name] = sha256(file)
        name = self.path if self.path is not None else "/".join(self.hub)
        return hold_out(found, self.sizes["val"], self.sizes["test"], self.seed, name)

    def _count(self, split: Split, examples: list[ScoredExample], kept: list[ScoredExample]) -> None:
        served = kept if split == "train" else examples
        without = len(examples) - len(kept)
        self._counts["rows"][split] = len(served)
        self._counts["truncated"][split] = sum(example.encoded.truncated for example in examples)
        self._counts["dropped"][split] = without if split == "train" else 0
        self._counts["unlabelled"][split] = 0 if split == "train" else without
        self._counts["tokens"][split] = sum(len(example.encoded.input_ids) for example in served)
        self._counts["labelled_tokens"][split] = sum(example.encoded.num_labels for example in served)
        self._say_losses(split, len(examples))

    @rank_zero_only
    def _say_losses(self, split: Split, rows: int) -> None:
        cut, dropped, unlabelled = (self._counts[name][split] for name in ("truncated", "dropped", "unlabelled"))
        if not cut + dropped + unlabelled:
            return
        parts = [f"{cut:,} of {rows:,} rows cut at data.max_length={self.max_length} (their EOS is lost)"]
        parts += [f"{dropped:,} dropped without a label"] if dropped else []
        parts += [f"{unlabelled:,} without a label"] if unlabelled else []
        Console().print(f"{split}: {', '.join(parts)}", highlight=False, soft_wrap=True)
