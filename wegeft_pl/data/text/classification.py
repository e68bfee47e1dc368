"""Any table of texts, or pairs of texts, and labels; its files tell train, validation and test by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

from wegeft_pl.data.delimited import Header, TableRow
from wegeft_pl.data.rows import sha256
from wegeft_pl.data.sources import Split
from wegeft_pl.data.table_files import TableFormat, read_table
from wegeft_pl.data.text.labelled import LabelledTextDataModule, Tables
from wegeft_pl.data.text.split_files import find_split_files


class TextClassificationDataModule(LabelledTextDataModule):
    """Any .csv, .tsv, .jsonl, .json (also .gz) or .parquet table with a text and a label.

    In a folder the word train, val, dev or test in a file's name says which split it is; parts as of the hub
    (``train-00000-of-00002.parquet``) are put together. Classes and number of rows are printed, and so is how many
    validation and test texts are in train too.

    Args:
        path: a folder of tables, or a single table, out of which validation and test are held.
        tokenizer: hub id or folder of the tokenizer; null: the task's own.
        text_column: the column with the text; a number from 0 where the file has no header.
        second_text_column: the column with the second text of a pair; null: single texts.
        label_column: the column with the class or the number to predict.
        task: ``classification``, ``regression``, or ``auto``: regression if all training labels are numbers and one of
            them is not whole.
        has_header: whether the first line of .csv and .tsv names the columns; ``auto``: it does if it has the columns
            that are named here, and it does not if they are numbers.
        delimiter: what separates columns; null: a comma in .csv, a tab in .tsv.
        quoted: whether fields may stand in double quotes; null: in .csv, not in .tsv.
        train_file: which file of the folder is train; null: by its name.
        val_file: the same for validation.
        test_file: the same for test.
        max_length: most tokens of a text or pair; longer ones are cut on the right, counted, and told of at setup.
        val_size: rows held out of train for validation (seeded, each class with its share); null: a tenth where no file
            is validation; 0: none.
        test_size: the same for test.
        limit_train: keep the first rows of train only; null: all.
        limit_val: the same for validation.
        limit_test: the same for test.
        batch_size: training texts per batch and process.
        eval_batch_size: validation and test texts per batch and process; null: as ``batch_size``.
        num_workers: processes that collate batches; 0 is right nearly always.
        pad_to_multiple_of: round sequence lengths up to a multiple of this; null: no rounding.
        group_by_length: make training batches of texts of similar length, which pads less.
        seed: seed of the training order and of the held-out rows.

    Raises:
        ValueError: a size is out of range, or the delimiter is not one character.
    """

    def __init__(
        self,
        path: str | None = None,
        tokenizer: str | None = None,
        text_column: str | int = "text",
        second_text_column: str | int | None = None,
        label_column: str | int = "label",
        task: Literal["auto", "classification", "regression"] = "auto",
        has_header: Header = "auto",
        delimiter: str | None = None,
        quoted: bool | None = None,
        train_file: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        max_length: int = 512,
        val_size: int | None = None,
        test_size: int | None = None,
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
        second = [] if second_text_column is None else [str(second_text_column)]
        super().__init__(
            path=path,
            tokenizer=tokenizer,
            columns=[str(text_column), *second],
            label_column=str(label_column),
            task=task,
            max_length=max_length,
            val_size=val_size,
            test_size=test_size,
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
        self.table_format = TableFormat(has_header, delimiter, quoted)
        self.files: Mapping[Split, str | None] = {"train": train_file, "val": val_file, "test": test_file}

    def read_tables(self) -> Tables:
        """Reads the tables of all splits.

        Raises:
            ValueError: there is no path, or a table or its name is not as it should be.
        """
        if self.path is None:
            raise ValueError(
                "data.path is null; give a table (.csv, .tsv, .jsonl, .json, .parquet) or a folder of them"
            )
        files, unused = find_split_files(self.path, self.files)
        tables = Tables({})
        headerless: list[tuple[str, TableRow]] = []
        for split, paths in files.items():
            rows: list[TableRow] = []
            for file in paths:
                part, named = read_table(file, [*self.columns, self.label_column], self.label_column, self.table_format)
                rows += part
                headerless += [] if named else [(file.name, part[0])]
            tables.rows[split] = list(enumerate(rows))
            tables.sha256[split] = hashlib.sha256("".join(map(sha256, paths)).encode()).hexdigest()
        if headerless:
            names = ", ".join(name for name, _ in headerless)
            tables.notes.append(f"no header in {names}; the first line is data: {_start(headerless[0][1])}")
        if unused:
            tables.notes.append(f"not used: {', '.join(unused)}")
        return tables


def _start(row: TableRow) -> str:
    return ", ".join(f"column {name} {str(value)[:40]!r}" for name, value in row.items())
