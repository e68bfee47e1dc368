"""Oxford-IIIT Pets in their original layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wegeft_pl.data.rows import read_text
from wegeft_pl.data.sources import Split, find_path
from wegeft_pl.data.tell import tell
from wegeft_pl.data.vision.base import ImageDataModule
from wegeft_pl.data.vision.classes import Classes
from wegeft_pl.data.vision.stored import ImageFile, ImageRow

_FIELDS = 4


class PetsDataModule(ImageDataModule):
    """Breeds of cats and dogs: images/NAME.jpg, listed in annotations/trainval.txt and annotations/test.txt.

    The classes are the breeds in the training list, by their number there, and called by the names of their files.
    Where only some breeds' images are there, ``unreadable: skip`` leaves the others out, counted: they are no classes.

    Args:
        path: the folder with images and annotations.
        fields: those that all image data modules share.

    Source: Parkhi et al., Cats and Dogs, 2012.
    """

    def __init__(self, path: str, **fields: Any) -> None:
        super().__init__(path, **fields)
        self._counts["other_breeds"] = {}

    def read_rows(self) -> dict[Split, list[ImageRow]]:
        """Reads the two lists.

        Raises:
            FileNotFoundError: a list is not there.
            ValueError: a line does not hold name, class, species and breed, or no image is there at all.
        """
        assert self.path is not None
        root = find_path(self.path)
        found: dict[Split, list[ImageRow]] = {
            "train": read_annotations(root, "trainval.txt"),
            "test": read_annotations(root, "test.txt"),
        }
        if self.reading.unreadable == "error":
            return found
        present = {row.label for row in found["train"] if Path(row.image.name).is_file()}
        if not present:
            raise ValueError(f"data.path: none of {len(found['train'])} training images is in {root / 'images'}")
        kept: dict[Split, list[ImageRow]] = {}
        for split, rows in found.items():
            kept[split] = [row for row in rows if row.label in present]
            self._counts["other_breeds"][split] = len(rows) - len(kept[split])
            if len(kept[split]) < len(rows):
                tell(
                    f"{split}: {len(rows) - len(kept[split]):,} rows left out, of breeds without a training image here"
                )
        return kept

    def read_classes(self, found: Mapping[Split, Sequence[ImageRow]]) -> Classes:
        """Lists the breeds of the training rows by number, under the names of their files or of ``classes``."""
        names = {row.label: breed_of(row.key) for row in found["train"]}
        labels = sorted(names, key=int)
        return Classes(tuple(labels), tuple(self.classes or [names[label] for label in labels]))


def breed_of(key: str) -> str:
    """Reads the breed off an image's file.

    Example:
        >>> breed_of("images/american_bulldog_100.jpg")
        'american_bulldog'
    """
    return Path(key).stem.rpartition("_")[0]


def read_annotations(root: Path, name: str) -> list[ImageRow]:
    """Reads a list of the annotations: name, class, species and breed a line, ``#`` before comments.

    Args:
        root: the folder with images and annotations.
        name: the list's file name.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: a line does not hold a name and three numbers, or there is no line.
    """
    file = root / "annotations" / name
    rows = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != _FIELDS or not all(field.isdecimal() for field in fields[1:]):
            raise ValueError(f"{file}:{number}: a line must be 'name class species breed', got {line.strip()!r:.80}")
        key = f"images/{fields[0]}.jpg"
        rows.append(ImageRow(ImageFile(root / key), fields[1], f"{file}:{number}", key))
    if not rows:
        raise ValueError(f"{file}: no rows; the list is empty")
    return rows
