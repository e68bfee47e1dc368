"""Tables that name images and classes: .csv, .tsv, .jsonl, .json and .parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from wegeft_pl.data.class_labels import label_of
from wegeft_pl.data.delimited import Header
from wegeft_pl.data.sources import Split, find_path
from wegeft_pl.data.table_files import ENDINGS, TableFormat, ending_of, read_table
from wegeft_pl.data.vision.base import ImageDataModule
from wegeft_pl.data.vision.stored import ImageFile, ImageRow


class ImageCSVDataModule(ImageDataModule):
    """Rows of a table with a column of image paths and a column of classes.

    Classes are names or numbers, as the table has them.

    Args:
        path: a table, then all of it is train, out of which ``val_size`` and ``test_size`` hold rows; or a folder with
            a table each for train, and perhaps val and test, such as train.csv.
        image_column: the column with the image's path; in tables without a header a number from 0.
        label_column: the column with the class; likewise.
        image_root: folder that paths begin at; null: the table's own. Absolute paths stay.
        has_header: whether a separated file's first line names the columns; auto: see whether it does.
        delimiter: one character between fields; null: a comma in .csv, a tab in .tsv.
        fields: those that all image data modules share.

    Raises:
        ValueError: a value is out of range, or fields do not go together.
    """

    def __init__(
        self,
        path: str,
        image_column: str = "image",
        label_column: str = "label",
        image_root: str | None = None,
        has_header: Header = "auto",
        delimiter: str | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(path, **fields)
        self.image_column = image_column
        self.label_column = label_column
        self.image_root = image_root
        self.table_format = TableFormat(has_header=has_header, delimiter=delimiter)

    def read_rows(self) -> dict[Split, list[ImageRow]]:
        """Reads the tables.

        Raises:
            FileNotFoundError: there is no table of training rows.
            ValueError: a table cannot be read, a column is missing, or a cell is empty.
        """
        assert self.path is not None
        return {split: self._read_table(file) for split, file in find_tables(find_path(self.path)).items()}

    def _read_table(self, file: Path) -> list[ImageRow]:
        root = file.parent if self.image_root is None else find_path(self.image_root)
        table, _ = read_table(file, (self.image_column, self.label_column), self.label_column, self.table_format)
        rows = []
        for row in table:
            path = row[self.image_column]
            if not isinstance(path, str) or not path.strip():
                raise ValueError(
                    f"{row.place}: column {self.image_column!r} must hold an image's path, got {path!r}; see "
                    "data.image_column"
                )
            label = label_of(row, self.label_column)
            rows.append(ImageRow(ImageFile(root / path.strip()), label, row.place, path.strip()))
        return rows


def find_tables(path: Path) -> dict[Split, Path]:
    """Finds the table of each split in a folder; a single table is train.

    Raises:
        FileNotFoundError: the folder has no table of training rows.
        ValueError: it has two for one split.
    """
    if path.is_file():
        return {"train": path}
    tables: dict[Split, Path] = {}
    for split in get_args(Split):
        present = [file for file in sorted(path.glob(f"{split}.*")) if ending_of(file.name) is not None]
        if len(present) > 1:
            raise ValueError(f"data.path: {path} has both {present[0].name} and {present[1].name}; keep one")
        if present:
            tables[split] = present[0]
    if "train" not in tables:
        names = ", ".join(sorted(item.name for item in path.iterdir())) or "nothing"
        raise FileNotFoundError(
            f"data.path: {path} has no training table, such as train.csv ({', '.join(ENDINGS)}); it has {names}"
        )
    return tables
