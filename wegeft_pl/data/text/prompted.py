"""Question-answer rows as prompts and responses: splits, held-out rows, encoding and counting."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from torch.utils.data import Dataset

from wegeft_pl.data.grouping import GroupedOrder
from wegeft_pl.data.order import BatchOrder
from wegeft_pl.data.rows import Row, read_rows, sha256, sha256_rows
from wegeft_pl.data.text.base import TextDataModule, check_least
from wegeft_pl.data.text.collate import LossCollator, ScoreCollator, ScoredExample
from wegeft_pl.data.text.encode_split import Encoding
from wegeft_pl.data.text.packing import PackedCollator, PackedOrder, PackedRows
from wegeft_pl.data.text.prompts import get_template
from wegeft_pl.data.text.sources import Split, find_files, read_hub_rows
from wegeft_pl.data.text.split_counts import SplitCounts
from wegeft_pl.data.text.splits import NumberedRows, hold_out
from wegeft_pl.data.text.stream import StreamedRows
from wegeft_pl.data.text.token_cache import CACHE_DIR
from wegeft_pl.data.text.token_store import Chosen, facts_of
from wegeft_pl.data.text.tokenize import EncodedExample, ExampleEncoder, PairTaker, TextPair, Tokenizer


class Examples(Dataset[Any]):
    """A list of examples as a dataset.

    Args:
        examples: by number.
        lengths: tokens of each, where batches are to be made by length.
    """

    def __init__(self, examples: Sequence[Any], lengths: Sequence[int] = ()) -> None:
        self.examples = examples
        self.lengths = lengths

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
        packing: put several training samples into one row of ``max_length`` tokens, each blind to the others.
        group_by_length: make training batches of samples of similar length.
        num_proc: processes that tokenise; null: this one, where a fast tokenizer has threads of its own.
        cache_dir: folder that keeps the tokens of 1,000 rows or more for the next run; null: none.
        streaming: read rows where they stand in the file and keep tokens in ``cache_dir`` alone, for .jsonl files
            larger than memory; batches are the same.

    Raises:
        ValueError: a size is out of range, the prompt template is unknown, or two options exclude each other.
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
        packing: bool = False,
        group_by_length: bool = False,
        num_proc: int | None = None,
        cache_dir: str | None = CACHE_DIR,
        streaming: bool = False,
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
        if packing and group_by_length:
            raise ValueError(
                "data.packing leaves no padding for data.group_by_length to save; set one of them to false"
            )
        if streaming and path is None:
            raise ValueError("data.streaming reads local .jsonl files, and data.path is null; give a file or a folder")
        self.packing = packing
        self.group_by_length = group_by_length
        self.encoding = Encoding(num_proc, cache_dir, streaming)
        self._rows: dict[Split, NumberedRows] | None = None
        self._sha256: dict[str, str] = {}
        self._counts = SplitCounts(max_length)

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
        if split == "train":
            encoded = self.encoding(encoder, partial(self._pairs, rows, encoder), len(rows), split)
            kept = self._counts.count(split, encoded)
            return self._training_set(Chosen(encoded, kept), facts_of(encoded).lengths[kept].tolist())
        examples = self._scored(split, rows, encoder)
        self._counts.count(split, [example.encoded for example in examples])
        return Examples(sorted(examples, key=lambda example: -example.encoded.prompt_length))

    def _pairs(self, rows: NumberedRows, encoder: ExampleEncoder) -> Iterator[TextPair]:
        """Puts the training texts together, row by row."""
        taker = PairTaker(encoder)
        for number, row in rows:
            self.make_example("train", number, row, taker)
            pair = taker.take(row.place)
            assert pair is not None, "a training row's example is made with the encoder it was given"
            yield pair

    def _scored(self, split: Split, rows: NumberedRows, encoder: ExampleEncoder) -> list[ScoredExample]:
        """Makes the examples of a split that is evaluated, tokenised together."""
        taker = PairTaker(encoder)
        made = [(self.make_example(split, number, row, taker), taker.take(row.place)) for number, row in rows]
        pairs = [pair for _, pair in made if pair is not None]
        encoded = iter(self.encoding(encoder, lambda: pairs, len(pairs), split))
        return [one if pair is None else replace(one, encoded=next(encoded)) for one, pair in made]

    def _training_set(self, examples: Sequence[EncodedExample], lengths: list[int]) -> Dataset:
        if not self.packing:
            return Examples(examples, lengths)
        packed = PackedRows(examples, lengths, self.max_length, self.seed)
        self._counts.counts["packed_rows"] = {"train": len(packed)}
        return packed

    def make_order(self, dataset: Any, batch_size: int, shuffle: bool) -> BatchOrder:
        """Makes the order of a split: seeded in training, by packed rows or by length where asked for."""
        rest = (batch_size, shuffle, self.seed, *self.shares())
        if isinstance(dataset, PackedRows):
            return PackedOrder(dataset, *rest)
        if self.group_by_length and shuffle:
            return GroupedOrder(dataset.lengths, *rest)
        return super().make_order(dataset, batch_size, shuffle)

    def make_example(self, split: Split, number: int, row: Row, encoder: ExampleEncoder) -> ScoredExample:
        """Makes one row's example: prompt, response and reference.

        Call ``encoder.encode`` once and put what it returns into the example: rows are tokenised together, later, and
        until then it holds no tokens. A training row's example is made more than once.

        Raises:
            ValueError: the gold answer has no reference.
        """
        question_column, answer_column = self.columns
        reference = self.reference(row[answer_column])
        if reference is None:
            raise ValueError(f"{row.place}: {self.malformed(row[answer_column])}")
        prompt = self.template.format_prompt(row[question_column])
        encoded = encoder.encode(prompt, self.template.format_response(row[answer_column]))
        return ScoredExample(number, prompt, reference, encoded)

    @property
    def packed_length(self) -> int:
        """Tokens of a packed row."""
        return self.max_length

    def make_collate(self, split: Split) -> Callable[[list[Any]], Any]:
        """Makes the collator: loss tensors for train, and prompts and references beside them for the rest."""
        training = PackedCollator if self.packing else LossCollator
        return (training if split == "train" else ScoreCollator)(self.pad_id, self.pad_to_multiple_of)

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
            # Only where it is on, so that checkpoints of earlier versions still fit.
            **({"packing": True} if self.packing else {}),
            **({"group_by_length": True} if self.group_by_length else {}),
            **{name: dict(counts) for name, counts in self._counts.counts.items()},
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
                if self.encoding.streaming:
                    found[split] = streamed = StreamedRows(file, self.columns)
                    self._sha256[file.name] = streamed.sha256
                else:
                    found[split] = list(enumerate(read_rows(file, self.columns)))
                    self._sha256[file.name] = sha256(file)
        name = self.path if self.path is not None else "/".join(self.hub)
        return hold_out(found, self.sizes["val"], self.sizes["test"], self.seed, name)
