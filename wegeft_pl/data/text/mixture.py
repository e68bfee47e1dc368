"""Several tasks in one module: trained on a mix or on one, scored one by one."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import ClassVar

from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch.utils.data import Dataset

from wegeft_pl.data.rows import Row
from wegeft_pl.data.sources import Split
from wegeft_pl.data.tell import tell
from wegeft_pl.data.text.base import check_least
from wegeft_pl.data.text.collate import ScoredExample
from wegeft_pl.data.text.hub_tasks import HubTask
from wegeft_pl.data.text.overlap import count_overlap, overlap_text
from wegeft_pl.data.text.prompted import PromptedDataModule
from wegeft_pl.data.text.splits import NumberedRows, hold_out
from wegeft_pl.data.text.task_choice import check_tasks
from wegeft_pl.data.text.task_rows import TaskRows, first_of_each
from wegeft_pl.data.text.tokenize import ExampleEncoder, Tokenizer
from wegeft_pl.losses import IGNORED
from wegeft_pl.metrics import AnswerRule


class MixtureDataModule(PromptedDataModule):
    """Rows of several tasks: training rows are put one behind the other and shuffled, test rows are scored by task.

    Every row carries its task through batches and predictions, so that a batch may hold several. A test row's id is
    its number in its file times the number of tasks of the suite plus the task's place there: ``BeforeAfter.limit``,
    which takes the smallest ids, takes as many of every task.

    Args:
        path: see the subclass, as the rest.
        train_path: see there.
        tasks: see there.
        train_tasks: see there.
        tokenizer: see :class:`PromptedDataModule`, as the rest.
        prompt: see there.
        max_length: see there.
        train_on_prompt: see there.
        val_size: see there.
        test_size: see there.
        limit_train: keep the first rows of each task only; null: all.
        limit_val: the same for validation.
        limit_test: the same for test.
        batch_size: see there.
        eval_batch_size: see there.
        num_workers: see there.
        pad_to_multiple_of: see there.
        seed: see there.
        packing: see there.
        group_by_length: see there.
        num_proc: see there.
        cache_dir: see there.

    Raises:
        ValueError: a size is out of range, a task or the prompt template is unknown, or ``train_path`` and
            ``train_tasks`` are both given.
    """

    #: The suite's tasks, and the name of its training file of several tasks.
    suite: ClassVar[Sequence[str]]
    mix: ClassVar[str]
    hub_tasks: ClassVar[Mapping[str, HubTask]]
    hub = ("", "")  # each task has its own

    def __init__(
        self,
        path: str | None,
        train_path: str | None,
        tasks: list[str] | None,
        train_tasks: list[str] | None,
        tokenizer: str | None,
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
        packing: bool,
        group_by_length: bool,
        num_proc: int | None,
        cache_dir: str | None,
    ) -> None:
        super().__init__(
            path=path,
            tokenizer=tokenizer,
            question_column="instruction",
            answer_column="output",
            prompt=prompt,
            max_length=max_length,
            train_on_prompt=train_on_prompt,
            val_size=val_size,
            test_size=test_size,
            limit_train=None,  # limits here are of each task: see _read
            limit_val=None,
            limit_test=None,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            pad_to_multiple_of=pad_to_multiple_of,
            seed=seed,
            packing=packing,
            group_by_length=group_by_length,
            num_proc=num_proc,
            cache_dir=cache_dir,
        )
        self.task_limits: dict[Split, int | None] = {"train": limit_train, "val": limit_val, "test": limit_test}
        for split, limit in self.task_limits.items():
            check_least(f"limit_{split}", limit, 1)
        check_tasks("tasks", tasks, self.suite)
        check_tasks("train_tasks", train_tasks, self.suite)
        if train_path is not None and train_tasks is not None:
            raise ValueError("data.train_path and data.train_tasks both say what is trained on; give one of them")
        self.train_path = train_path
        self.tasks = tasks
        self.train_tasks = train_tasks
        self._wrong: dict[str, int] = {}

    @abstractmethod
    def rules(self, task: str) -> dict[str, AnswerRule]:
        """Makes the scores of one task by name; exactly one of them is its own and counts in the mean."""

    @abstractmethod
    def reference_of(self, row: Row) -> str | None:
        """Finds what a row's answer is compared with; None when its gold answer is malformed."""

    @abstractmethod
    def response_of(self, row: Row) -> str:
        """Makes the text that a row trains."""

    @abstractmethod
    def leads_to_answer(self, row: Row) -> bool:
        """Whether a row's worked answer ends in its gold answer."""

    def task_of_row(self, row: Row) -> str:
        """Finds a training row's task where the file's name does not say it; the file's name unless overridden."""
        return row["task"]

    @property
    def answer_extractors(self) -> Mapping[str, Callable[[str], str | None]]:
        """The scores of all tasks that have rows to score, or may have before the rows are read."""
        tasks: Sequence[str] = self.suite
        if self._rows is not None:
            scored = chain(self._rows["val"], self._rows["test"])
            tasks = list(dict.fromkeys(row["task"] for _, row in scored))
        return {name: rule for task in tasks for name, rule in self.rules(task).items()}

    def reference(self, answer: str) -> str | None:
        """Not asked for: see :meth:`reference_of`, which knows the row's task."""
        raise AssertionError("a mixture finds references by row")

    def how_to_add(self, split: Split) -> str:
        """Words the way out where a split has no rows."""
        if split == "train":
            return f"add TASK/train.json files, or give data.train_path a file such as {self.mix}.json"
        return f"add TASK/{split}.json files, or hold rows out of train with data.{split}_size"

    def make_example(self, split: Split, number: int, row: Row, encoder: ExampleEncoder) -> ScoredExample:
        """Makes one row's example, which knows its task."""
        reference = self.reference_of(row)
        if reference is None:
            raise ValueError(f"{row.place}: {self.malformed(row['answer'])}")
        prompt = self.template.format_prompt(row["instruction"])
        encoded = encoder.encode(prompt, self.template.format_response(self.response_of(row)))
        return ScoredExample(number, prompt, reference, encoded, row["task"])

    def build_split(self, split: Split, tokenizer: Tokenizer) -> Dataset | None:
        """Reads, checks and encodes one split, and tells of worked answers that are wrong."""
        first = self._rows is None
        dataset = super().build_split(split, tokenizer)
        assert self._rows is not None
        if first:
            self._tell(self._rows)
        self._wrong[split] = sum(not self.leads_to_answer(row) for _, row in self._rows[split])
        self._say_wrong(split, len(self._rows[split]))
        return dataset

    def _scored(self, split: Split, rows: NumberedRows, encoder: ExampleEncoder) -> list[ScoredExample]:
        """Takes the labels off rows whose worked answer is wrong: arithmetic test files hold another model's."""
        right = {number for number, row in rows if self.leads_to_answer(row)}
        examples = super()._scored(split, rows, encoder)
        return [example if example.id in right else _unlabelled(example) for example in examples]

    def describe(self) -> dict[str, object]:
        """Adds the rows of each task by split, and the suite's tasks that are not scored."""
        by_split = {split: dict(Counter(row["task"] for _, row in rows)) for split, rows in (self._rows or {}).items()}
        scored = by_split.get("test", {})
        return {
            **super().describe(),
            "path": self.path if self.path is not None else "hub",
            "tasks": by_split,
            "not_scored": {"test": [task for task in self.suite if task not in scored]},
            "wrong_outputs": dict(self._wrong),
        }

    def _read(self) -> dict[Split, NumberedRows]:
        rows = TaskRows(
            self.suite, self.mix, self.hub_tasks, self.path, self.train_path, self.tasks, self.train_tasks, self._sha256
        )
        train = rows.train()
        for row in train:
            row["task"] = self.task_of_row(row)
        # Few sets have files for validation; and where test rows are held out, hold_out has a say in test files.
        found: dict[Split, NumberedRows] = {
            "train": list(enumerate(train)),
            "val": rows.scored("val", whatever_is_there=True),
            "test": rows.scored("test", whatever_is_there=self.sizes["test"] > 0),
        }
        if train or any(self.sizes.values()):
            name = self.path if self.path is not None else "the hub"
            found = hold_out(found, self.sizes["val"], self.sizes["test"], self.seed, name)
        return {split: first_of_each(rows, self.task_limits[split]) for split, rows in found.items()}

    @rank_zero_only
    def _tell(self, found: Mapping[Split, NumberedRows]) -> None:
        train, test = ([row for _, row in found[split]] for split in ("train", "test"))
        scored = {row["task"] for row in test}
        without = [task for task in self.suite if task not in scored]
        if self.tasks is None and len(scored) > 1 and without:
            text = f"test/mean is over {len(scored)} of {len(self.suite)} tasks, without {', '.join(without)}"
            tell(text)
        for split in ("val", "test"):
            rows = [row for _, row in found[split]]
            counts = count_overlap(train, rows)
            if counts:
                rank_zero_warn(overlap_text(counts, rows, split))

    def _say_wrong(self, split: Split, rows: int) -> None:
        if self._wrong[split]:
            effect = "they are trained on" if split == "train" else "they are scored, and the loss leaves them out"
            text = f"{split}: {self._wrong[split]:,} of {rows:,} outputs do not lead to their answer; {effect}"
            tell(text)


def _unlabelled(example: ScoredExample) -> ScoredExample:
    return replace(example, encoded=replace(example.encoded, labels=[IGNORED] * len(example.encoded.labels)))
