"""Texts, or pairs of texts, with a label each: classes, held-out rows, encoding and counting."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

from torch import Tensor
from torch.utils.data import Dataset

from wegeft_pl.data.class_labels import (
    class_index,
    class_list,
    counts_text,
    kind_of,
    label_of,
    number_of,
    text_of,
)
from wegeft_pl.data.delimited import TableRow
from wegeft_pl.data.grouping import GroupedOrder
from wegeft_pl.data.order import BatchOrder
from wegeft_pl.data.sources import Split
from wegeft_pl.data.stratified import stratified_parts
from wegeft_pl.data.tell import tell
from wegeft_pl.data.text.base import TextDataModule, check_least
from wegeft_pl.data.text.classified import (
    ClassifiedCollator,
    ClassifiedText,
    PairTokenizer,
    blank_classified,
    encode_texts,
)
from wegeft_pl.data.text.prompted import Examples
from wegeft_pl.data.text.tokenize import Tokenizer

#: Rows with their numbers in the file that they come from.
Numbered = list[tuple[int, TableRow]]


@dataclass
class Tables:
    """The rows of a data set by split, before anything is tokenised.

    Args:
        rows: by split; a split that the data has not may be absent.
        sha256: what tells the rows of a split from others.
        notes: what there is to say of how they were found, one line each.
    """

    rows: dict[Split, Numbered]
    sha256: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class LabelledTextDataModule(TextDataModule):
    """What text classification and regression share; a subclass says where the rows come from.

    Classes come from the training rows alone, sorted; another label in validation or test is an error. Batches hold
    ``input_ids``, ``attention_mask``, ``token_type_ids`` where the tokenizer gives them, ``labels`` and ``indices``
    (the row's number in its file). Validation and test run longest text first, which pads least; so ``limit_val`` and
    ``limit_test`` take a fair part of a split and the trainer's ``limit_val_batches`` does not.

    Args:
        path: see the subclass, as the rest.
        tokenizer: see :class:`TextDataModule`.
        columns: the text's column and, for pairs, the second text's.
        label_column: the label's column.
        task: ``auto``, ``classification`` or ``regression``.
        max_length: most tokens of a text or pair.
        val_size: rows held out of train for validation; see the subclass.
        test_size: the same for test.
        limit_train: keep the first rows of the split only; null: all.
        limit_val: the same for validation.
        limit_test: the same for test.
        batch_size: see :class:`TextDataModule`, as the rest.
        eval_batch_size: see there.
        num_workers: see there.
        pad_to_multiple_of: see there.
        group_by_length: make training batches of texts of similar length.
        seed: see :class:`TextDataModule`.

    Raises:
        ValueError: a size is below its least value.
    """

    #: Whether a text may be empty.
    empty_texts: ClassVar[bool] = False

    def __init__(
        self,
        path: str | None,
        tokenizer: str | None,
        columns: Sequence[str],
        label_column: str,
        task: Literal["auto", "classification", "regression"],
        max_length: int,
        val_size: int | None,
        test_size: int | None,
        limit_train: int | None,
        limit_val: int | None,
        limit_test: int | None,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
        pad_to_multiple_of: int | None,
        group_by_length: bool,
        seed: int,
    ) -> None:
        super().__init__(path, tokenizer, batch_size, eval_batch_size, num_workers, pad_to_multiple_of, seed)
        self.columns = list(columns)
        self.label_column = label_column
        self.task = task
        self.max_length = max_length
        self.group_by_length = group_by_length
        self.sizes: dict[Split, int | None] = {"val": val_size, "test": test_size}
        self.limits: dict[Split, int | None] = {"train": limit_train, "val": limit_val, "test": limit_test}
        check_least("max_length", max_length, 1)
        for split, size in self.sizes.items():
            check_least(f"{split}_size", size, 0)
        for split, limit in self.limits.items():
            check_least(f"limit_{split}", limit, 1)
        if len({*self.columns, label_column}) <= len(self.columns):
            names = " and ".join(repr(name) for name in [*self.columns, label_column])
            raise ValueError(f"data: texts and label must be in columns of their own, got {names}")
        self._tables: Tables | None = None
        self._held_out: dict[Split, int] = {"val": 0, "test": 0}
        self._classes: list[str] | None = None
        self._counts: dict[str, dict[str, Any]] = {
            name: {} for name in ("rows", "truncated", "tokens", "class_counts", "also_in_train")
        }

    @abstractmethod
    def read_tables(self) -> Tables:
        """Reads all splits; train is always among them."""

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers to predict."""
        return not self.class_names

    @property
    def num_classes(self) -> int:
        """How many outputs a head needs: one for each class, or 1 to predict a number."""
        return len(self.class_names) or 1

    @property
    def class_names(self) -> list[str]:
        """The classes of the training rows, in the order of their numbers; empty where labels are numbers to predict.

        Raises:
            ValueError: from reading the rows, or there is only one class.
        """
        if self._classes is None:
            self._classes = self._find_classes(self.tables.rows["train"])
        return self._classes

    @property
    def tables(self) -> Tables:
        """All rows, read on first use."""
        if self._tables is None:
            self._tables = self._hold_out(self.read_tables())
            tell(*self._tables.notes)
        return self._tables

    def build_split(self, split: Split, tokenizer: Tokenizer) -> Dataset | None:
        """Checks and encodes one split; see the class."""
        rows = self.tables.rows.get(split, [])[: self.limits[split]]
        if not rows:
            return None
        texts, pairs = self._texts(rows)
        encoded = encode_texts(cast(PairTokenizer, tokenizer), texts, pairs, self.max_length)
        examples = [
            ClassifiedText(number, ids, types, self._target(row), truncated)
            for (number, row), (ids, types, truncated) in zip(rows, encoded, strict=True)
        ]
        self._count(split, rows, examples)
        if split != "train":
            examples.sort(key=lambda example: -len(example.input_ids))
        return Examples(examples)

    def make_order(self, dataset: Any, batch_size: int, shuffle: bool) -> BatchOrder:
        """Makes the order of a split: seeded and shuffled in training, longest text first otherwise."""
        if self.group_by_length and shuffle:
            assert isinstance(dataset, Examples)
            lengths = [len(example.input_ids) for example in dataset.examples]
            return GroupedOrder(lengths, batch_size, shuffle, self.seed, *self.shares())
        return super().make_order(dataset, batch_size, shuffle)

    def make_collate(self, split: Split) -> Callable[[list[Any]], Any]:
        """Makes the collator, the same for every split."""
        return ClassifiedCollator(self.pad_id, self.pad_to_multiple_of, self.is_regression)

    def make_blank(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Takes labels and indices off a batch that only keeps a process in step with the others."""
        return blank_classified(batch)

    def describe(self) -> dict[str, object]:
        """Returns name, path, columns, classes, hashes by split, and counts by split, in plain JSON types."""
        return {
            "name": type(self).__name__,
            "path": self.path,
            "sha256": {} if self._tables is None else dict(self._tables.sha256),
            "columns": [*self.columns, self.label_column],
            "task": self.task,
            "held_out": [self._held_out[split] for split in ("val", "test")],
            "class_names": list(self._classes or []),
            "max_length": self.max_length,
            "group_by_length": self.group_by_length,
            "seed": self.seed,
            **{name: dict(counts) for name, counts in self._counts.items()},
        }

    def how_to_add(self, split: Split) -> str:
        """Words the way out where the data has no rows of a split that is needed."""
        return f"add a table with {split} in its name, or hold rows out of train with data.{split}_size"

    def _find_classes(self, rows: Numbered) -> list[str]:
        labels = [label_of(row, self.label_column) for _, row in rows]
        kind = kind_of(labels) if self.task == "auto" else self.task
        return [] if kind == "regression" else class_list(labels, self.path or type(self).__name__)

    def _target(self, row: TableRow) -> int | float:
        if self.is_regression:
            return number_of(row, self.label_column)
        return class_index(row, self.label_column, self.class_names)

    def _texts(self, rows: Numbered) -> tuple[list[str], list[str] | None]:
        first, *second = ([text_of(row, column, self.empty_texts) for _, row in rows] for column in self.columns)
        return first, second[0] if second else None

    def _hold_out(self, tables: Tables) -> Tables:
        """Holds rows out of train where a size says so, or where there is none and the data lacks the split."""
        train = tables.rows["train"]
        sizes: dict[Split, int] = {}
        held_out_first: tuple[Split, ...] = ("test", "val")  # which test rows those are does not depend on val_size
        for split in held_out_first:
            size, own = self.sizes[split], bool(tables.rows.get(split))
            if size and own:
                raise ValueError(
                    f"data.{split}_size={size} holds rows out of train, but {self.path} has {split} rows of its own; "
                    f"leave data.{split}_size out"
                )
            sizes[split] = size if size is not None else 0 if own else max(1, len(train) // 10)
        if not any(sizes.values()):
            return tables
        labels = [label_of(row, self.label_column) for _, row in train]
        if (kind_of(labels) if self.task == "auto" else self.task) == "regression":
            labels = [""] * len(train)
        try:
            parts = dict(zip(sizes, stratified_parts(labels, list(sizes.values()), self.seed), strict=True))
        except ValueError as error:
            raise ValueError(
                f"data.val_size={sizes['val']} and data.test_size={sizes['test']} are too many: {error}; lower them, "
                "or name another data.label_column"
            ) from None
        held_out = {row for part in parts.values() for row in part}
        rows: dict[Split, Numbered] = {**tables.rows, "train": [r for n, r in enumerate(train) if n not in held_out]}
        notes = list(tables.notes)
        for split, part in parts.items():
            if part:
                self._held_out[split] = len(part)
                rows[split] = [train[row] for row in part]
                notes.append(f"{split}: {len(part):,} rows held out of train (seed {self.seed}; data.{split}_size)")
        return Tables(rows, tables.sha256, notes)

    def _count(self, split: Split, rows: Numbered, examples: list[ClassifiedText]) -> None:
        truncated = sum(example.truncated for example in examples)
        self._counts["rows"][split] = len(examples)
        self._counts["truncated"][split] = truncated
        self._counts["tokens"][split] = sum(len(example.input_ids) for example in examples)
        line = f"{split}: {len(examples):,} rows"
        if self.is_regression:
            values = [float(example.label) for example in examples]
            line += f", labels {min(values):g} to {max(values):g}, mean {sum(values) / len(values):.3g}"
        else:
            labels = [label_of(row, self.label_column) for _, row in rows]
            self._counts["class_counts"][split] = {name: labels.count(name) for name in self.class_names}
            line += f", {counts_text(labels, self.class_names)}"
        if truncated:
            line += f"; {truncated:,} cut at data.max_length={self.max_length}"
        if split != "train":
            line += self._overlap(split, rows)
        tell(line)

    def _overlap(self, split: Split, rows: Numbered) -> str:
        """Counts the rows whose very text, or pair, is in train too."""
        known = {tuple(row[column] for column in self.columns) for _, row in self.tables.rows["train"]}
        also = sum(tuple(row[column] for column in self.columns) in known for _, row in rows)
        self._counts["also_in_train"][split] = also
        return f"; the same text is in train for {also:,} of them" if also else ""
