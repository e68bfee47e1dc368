"""A folder of images for each class."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from wegeft_pl.data.sources import Split, find_path
from wegeft_pl.data.tell import tell
from wegeft_pl.data.vision.base import ImageDataModule
from wegeft_pl.data.vision.stored import ImageFile, ImageRow

#: Endings of files that are read as images, in small letters.
IMAGE_ENDINGS = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
)
#: Names of the folders of each split.
SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


class ImageFolderDataModule(ImageDataModule):
    """Images in one folder for each class, the usual layout ``train/CLASS/image.jpg``.

    Files without an image's ending are left out, counted and told of. Images lie anywhere below their class's folder,
    and stand in the split by class and path.

    Args:
        path: a folder with train, and perhaps val (or valid) and test; or with the classes themselves, then all of it
            is train, out of which ``val_size`` and ``test_size`` hold rows.
        fields: those that all image data modules share.

    Raises:
        ValueError: a value is out of range, or fields do not go together.
    """

    def __init__(self, path: str, **fields: Any) -> None:
        super().__init__(path, **fields)
        self._counts["other_files"] = {}

    def read_rows(self) -> dict[Split, list[ImageRow]]:
        """Lists the images of each split.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it has no training images, has a split twice, or images beside the classes' folders.
        """
        assert self.path is not None
        root = find_path(self.path)
        if not root.is_dir():
            raise ValueError(
                f"data.path: {root} is a file; expected a folder with train, or with a folder for each class"
            )
        folders = split_folders(root)
        found: dict[Split, list[ImageRow]] = {}
        for split, folder in folders.items():
            found[split], others = list_images(folder, root)
            self._counts["other_files"][split] = sum(others.values())
            _tell_others(split, folder, others)
        if not found["train"]:
            raise ValueError(
                f"data.path: {folders['train']} has no images; expected a folder for each class with files that end in "
                ".jpg, .png and the like"
            )
        return found


def split_folders(root: Path) -> dict[Split, Path]:
    """Finds the folder of each split; without any of them the root is train.

    Raises:
        ValueError: there are a val and a valid, or a val or test but no train.
    """
    folders: dict[Split, Path] = {}
    for split, choices in SPLIT_FOLDERS.items():
        present = [root / name for name in choices if (root / name).is_dir()]
        if len(present) > 1:
            raise ValueError(f"data.path: {root} has both {present[0].name} and {present[1].name}; keep one")
        if present:
            folders[split] = present[0]
    if folders and "train" not in folders:
        names = ", ".join(sorted(item.name for item in root.iterdir()))
        raise ValueError(f"data.path: {root} has no train folder, which the classes come from; it has {names}")
    return folders or {"train": root}


def list_images(folder: Path, root: Path) -> tuple[list[ImageRow], Counter[str]]:
    """Lists the images below each class's folder, by class and path.

    Args:
        folder: of a split.
        root: of the data set.

    Returns:
        The images, and how many files of each other ending there are.

    Raises:
        ValueError: an image lies beside the classes' folders.
    """
    rows: list[ImageRow] = []
    others: Counter[str] = Counter()
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir():
            if entry.suffix.lower() in IMAGE_ENDINGS:
                raise ValueError(f"{entry}: an image must lie in the folder of its class, such as {folder}/CLASS/")
            others[entry.suffix or entry.name] += 1
            continue
        for path in _files_below(entry):
            if path.suffix.lower() in IMAGE_ENDINGS:
                rows.append(ImageRow(ImageFile(path), entry.name, str(path), path.relative_to(root).as_posix()))
            else:
                others[path.suffix or path.name] += 1
    return rows, others


def _files_below(folder: Path) -> list[Path]:
    found = []
    for parent, _, names in os.walk(folder, followlinks=True):
        found += [Path(parent, name) for name in names]
    return sorted(found)


def _tell_others(split: str, folder: Path, others: Counter[str]) -> None:
    if others:
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in others.most_common(5))
        tell(f"{split}: {sum(others.values()):,} files in {folder} are no images by their ending: {kinds}")
