"""The GLUE tasks, from the hub or from the files in which they were first given out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from wegeft_pl.data.delimited import Dialect, TableRow, read_delimited
from wegeft_pl.data.rows import missing, sha256
from wegeft_pl.data.sources import Split, find_path
from wegeft_pl.data.table_files import TableFormat, ending_of, read_packed_text, read_table
from wegeft_pl.data.text.glue_tasks import TASKS
from wegeft_pl.data.text.labelled import LabelledTextDataModule, Numbered, Tables
from wegeft_pl.data.text.sources import load_hub_split
from wegeft_pl.data.text.split_files import one_table, split_in
from wegeft_pl.metrics.glue import GLUE_SCORES

TaskName = Literal["cola", "mnli", "mnli_mismatched", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]
HUB = "nyu-mll/glue"


class GLUEDataModule(LabelledTextDataModule):
    """One task of GLUE. Labels of its test rows are not public, so that "test" scores the validation rows, and says so.

    Local files are the original .tsv ones (columns named, or for CoLA and SST-2 without a header), or the hub's tables.
    Lines that are broken in the original files are left out and counted.

    Args:
        task: which one; mnli is validated on its matched rows.
        path: a folder with the task's train and dev files, or one with a folder of the task in it (CoLA, SST-2, ...);
            null: nyu-mll/glue on the hub.
        tokenizer: hub id or folder of the tokenizer; null: the task's own.
        max_length: most tokens of a text or pair; longer ones are cut on the right, counted, and told of at setup.
        limit_train: keep the first rows of train only; null: all.
        limit_val: the same for validation.
        limit_test: the same for test.
        batch_size: training texts per batch and process.
        eval_batch_size: validation and test texts per batch and process; null: as ``batch_size``.
        num_workers: processes that collate batches; 0 is right nearly always.
        pad_to_multiple_of: round sequence lengths up to a multiple of this; null: no rounding.
        group_by_length: make training batches of texts of similar length, which pads less.
        seed: seed of the training order.

    Raises:
        ValueError: the task is unknown, or a size is out of range.

    Source: METHOD.md sections 6 and 7.
    """

    empty_texts = True  # QQP has a few

    def __init__(
        self,
        task: TaskName,
        path: str | None = None,
        tokenizer: str | None = None,
        max_length: int = 512,
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pad_to_multiple_of: int | None = None,
        group_by_length: bool = False,
        seed: int = 42,
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"data.task: no GLUE task {task!r}; there are {', '.join(TASKS)}")
        self.glue = TASKS[task]
        self.task_name = task
        super().__init__(
            path=path,
            tokenizer=tokenizer,
            columns=self.glue.hub_texts,
            label_column="label",
            task="classification" if self.glue.classes else "regression",
            max_length=max_length,
            val_size=0,
            test_size=0,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            pad_to_multiple_of=pad_to_multiple_of,
            group_by_length=group_by_length,
            seed=seed,
        )

    @property
    def headline(self) -> str:
        """The score that the task is compared by."""
        return GLUE_SCORES[self.task_name][0]

    def prepare_data(self) -> None:
        """Fetches the hub's copy once per machine, before all processes read it."""
        if self.path is None:
            self._read_hub()

    def read_tables(self) -> Tables:
        """Reads all splits; where test has no labels, it is validation once more.

        Raises:
            FileNotFoundError: there is no such folder, or no training file in it.
            ValueError: a file cannot be read, has not the task's columns, or a label is none of the task's.
        """
        tables = self._read_hub() if self.path is None else self._read_folder(find_path(self.path))
        if not tables.rows.get("test") and tables.rows.get("val"):
            tables.rows["test"] = tables.rows["val"]
            tables.notes.append(f"{self.task_name}: GLUE's test labels are not public; test scores the validation rows")
        return tables

    def describe(self) -> dict[str, object]:
        """Adds the task's name."""
        return super().describe() | {"path": self.path or HUB, "glue_task": self.task_name}

    def _find_classes(self, rows: Numbered) -> list[str]:
        """The task's classes in the hub's order, whichever rows there are."""
        return list(self.glue.classes)

    def _read_hub(self) -> Tables:
        tables = Tables({})
        for split, name in self.glue.hub_splits.items():
            content = load_hub_split(HUB, self.glue.hub_config, name)
            places = (
                (row, f"{HUB} {self.glue.hub_config} {name}: row {number}") for number, row in enumerate(content, 1)
            )
            names = [*self.glue.hub_texts, "label"]
            rows = [TableRow({column: row[column] for column in names}, place) for row, place in places]
            tables.rows[split] = self._labelled(rows, "label", self.glue.hub_texts)
            lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
            tables.sha256[split] = hashlib.sha256(lines.encode()).hexdigest()
        return tables

    def _read_folder(self, folder: Path) -> Tables:
        if folder.is_file():
            raise ValueError(f"data.path: {folder} is a file; give the folder with the task's train and dev files")
        inside = [folder / name for name in self.glue.folders if (folder / name).is_dir()]
        folder = inside[0] if inside else folder
        tables = Tables({})
        for split, files in self._files(folder).items():
            rows: Numbered = []
            for file in files:
                found, broken = self._read_file(file)
                rows += [(len(rows) + number, row) for number, (_, row) in enumerate(found)]
                if broken:
                    tables.notes.append(f"{file.name}: {broken:,} broken lines left out")
            tables.rows[split] = rows
            tables.sha256[split] = hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
            if len(files) > 1:
                tables.notes.append(f"{split}: {', '.join(file.name for file in files)} together")
        return tables

    def _files(self, folder: Path) -> dict[Split, list[Path]]:
        names: dict[Split, list[str]] = {}
        other = "mismatched" if self.task_name != "mnli_mismatched" else "_matched"
        for name in sorted(item.name for item in folder.iterdir() if item.is_file() and ending_of(item.name)):
            split = split_in(name)
            if split is not None and other not in name:
                names.setdefault(split, []).append(name)
        if "train" not in names:
            raise FileNotFoundError(
                f"data.path: {missing(folder / 'train.tsv')}; for {self.task_name} give the folder with train.tsv and "
                f"dev.tsv, or one that has the folder {self.glue.folders[0]}"
            )
        return {
            split: [
                folder / name for name in (found if self._is_original_cola(found) else one_table(found, split, folder))
            ]
            for split, found in names.items()
        }

    def _is_original_cola(self, names: Iterable[str]) -> bool:
        """Whether these are the corpus's own two development files, which GLUE's one is made of."""
        return self.task_name == "cola" and {"in_domain_dev.tsv", "out_of_domain_dev.tsv"} == set(names)

    def _read_file(self, file: Path) -> tuple[Numbered, int]:
        """Reads a file's labelled rows (none where it has no labels), and counts the broken lines left out of it."""
        if ending_of(file.name) != ".tsv":
            rows, _ = read_table(file, [*self.glue.hub_texts, "label"], None, TableFormat())
            return self._labelled(rows, "label", self.glue.hub_texts), 0
        lines = read_packed_text(file).split("\n")
        first = lines[0].rstrip("\r").split("\t")
        texts, label = self.glue.columns_in(first, str(file))
        if label is None:
            return [], 0
        # Blank lines are skipped by the reader and keep the numbers of the others.
        whole = [line if line.count("\t") == len(first) - 1 or not line.strip() else "" for line in lines]
        broken = sum(bool(line.strip()) for line in lines) - sum(bool(line.strip()) for line in whole)
        header = not texts[0].isdecimal()
        dialect = Dialect("\t", quoted=False, has_header=header)
        rows, _ = read_delimited("\n".join(whole), str(file), [*texts, label], None, dialect)
        return self._labelled(rows, label, texts), broken

    def _labelled(self, rows: list[TableRow], label: str, texts: Iterable[str]) -> Numbered:
        """Names columns and classes as the hub does, and leaves out rows whose label is not public."""
        found = []
        for number, row in enumerate(rows):
            named = self.glue.class_of(row[label], row.place)
            if named is not None:
                values = {ours: row[theirs] for ours, theirs in zip(self.glue.hub_texts, texts, strict=True)}
                found.append((number, TableRow({**values, "label": named}, row.place)))
        return found
