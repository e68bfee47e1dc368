"""Reads the rows of several tasks, from files or from the hub: those to train on, and those to score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wegeft_pl.data.rows import Row, sha256, sha256_rows
from wegeft_pl.data.sources import Split
from wegeft_pl.data.text.hub_tasks import HubTask
from wegeft_pl.data.text.instruction_rows import read_instructions
from wegeft_pl.data.text.splits import NumberedRows
from wegeft_pl.data.text.task_choice import choose_scored, choose_trained
from wegeft_pl.data.text.task_files import TaskFiles, find_task_files, train_file


@dataclass
class TaskRows:
    """The rows of a suite of tasks.

    Args:
        suite: the tasks' names.
        mix: the name of the suite's training file of several tasks, without ending.
        hub: the tasks that the hub has.
        path: where the files are, see :func:`find_task_files`; None: the hub.
        train_path: a training file instead of those under ``path``.
        tasks: what is scored; None: all that is there.
        train_tasks: what is trained on; None: the mix where there is one, else all that is there.

    Raises:
        FileNotFoundError: see :func:`find_task_files`.
    """

    suite: Sequence[str]
    mix: str
    hub: Mapping[str, HubTask]
    path: str | None
    train_path: str | None
    tasks: Sequence[str] | None
    train_tasks: Sequence[str] | None
    #: The hash of each file that was read, by task and split.
    sha256: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = TaskFiles() if self.path is None else find_task_files(self.path, self.suite, self.mix)

    def train(self) -> list[Row]:
        """Reads the rows to train on, one task behind the other.

        Raises:
            ValueError: a task that was asked for has none, or a row is faulty; its place is named.
        """
        file = self.files.mix if self.train_tasks is None else None
        name = "" if file is None else file.stem.replace(".", "_")  # see train_file
        if self.train_path is not None:
            name, file = train_file(self.train_path, self.suite)
        if file is not None:
            self.sha256[file.name] = sha256(file)
            return read_instructions(file, name)
        chosen = choose_trained(self.train_tasks, self._present("train"), self.path)
        return [row for task in chosen for row in self._read(task, "train")]

    def scored(self, split: Split, whatever_is_there: bool) -> NumberedRows:
        """Reads the rows to score, each with its number in its file times the suite's size plus its task's place.

        Args:
            split: val or test.
            whatever_is_there: do not insist on the tasks that were asked for.

        Raises:
            ValueError: as in :meth:`train`.
        """
        present = self._present(split)
        if whatever_is_there:
            chosen = [task for task in present if self.tasks is None or task in self.tasks]
        else:
            chosen = choose_scored(self.tasks, present, self.path)
        return [
            (number * len(self.suite) + self.suite.index(task), row)
            for task in chosen
            for number, row in enumerate(self._read(task, split))
        ]

    def _present(self, split: Split) -> list[str]:
        has = self.hub if self.path is None else self.files.splits
        return [task for task in self.suite if split in has.get(task, {})]

    def _read(self, task: str, split: Split) -> list[Row]:
        if self.path is None:
            rows = self.hub[task][split].read(task)
            self.sha256[f"{task}/{split}"] = sha256_rows(rows)
        else:
            file = self.files.splits[task][split]
            rows = read_instructions(file, task)
            self.sha256[f"{task}/{split}"] = sha256(file)
        return rows


def first_of_each(rows: NumberedRows, limit: int | None) -> NumberedRows:
    """Keeps the first rows of each task; all where there is no limit.

    Example:
        >>> rows = [(number, Row({"task": task}, "here")) for number, task in enumerate("aabab")]
        >>> [number for number, _ in first_of_each(rows, 2)]
        [0, 1, 2, 4]
    """
    if limit is None:
        return rows
    counts: Counter[str] = Counter()
    kept = []
    for number, row in rows:
        counts[row["task"]] += 1
        if counts[row["task"]] <= limit:
            kept.append((number, row))
    return kept
