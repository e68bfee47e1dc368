"""The layouts in which the five fine-grained data sets come, and the split files in common use."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wegeft_pl.data.rows import missing, read_text
from wegeft_pl.data.sources import Split
from wegeft_pl.data.vision.stored import ImageFile, ImageRow

Rows = dict[Split, list[ImageRow]]
Names = dict[str, str]

#: Folders that the keys of split files may begin in.
_IMAGE_FOLDERS = ("", "images", "Images")


def read_split_files(root: Path) -> Rows:
    """Reads train.json, val.json and test.json: ``{"image path": class id}``; val and test need not be there.

    Args:
        root: the folder with them; paths begin in it, or in its folder images or Images.

    Raises:
        ValueError: a file is no such object, or empty.
    """
    files: dict[Split, Path] = {"train": root / "train.json", "val": root / "val.json", "test": root / "test.json"}
    return {split: _read_json(file, root) for split, file in files.items() if file.is_file()}


def _read_json(file: Path, root: Path) -> list[ImageRow]:
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: not valid JSON ({error.msg})") from None
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f'{file}: expected an object like {{"image path": class id}} with at least one image')
    first = next(iter(content))
    folder = next((root / name for name in _IMAGE_FOLDERS if (root / name / first).is_file()), root)
    rows = []
    for number, (key, label) in enumerate(content.items(), 1):
        place = f"{file}: entry {number}"
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise ValueError(f"{place}: the class of {key!r} must be a number or a name, got {label!r}")
        rows.append(ImageRow(ImageFile(folder / key), str(label), place, key))
    return rows


def read_birds(root: Path) -> tuple[Rows, Names]:
    """Reads CUB-200-2011 and NABirds: images.txt, image_class_labels.txt, train_test_split.txt, classes.txt."""
    labels = dict(_pairs(root / "image_class_labels.txt"))
    in_train = dict(_pairs(root / "train_test_split.txt"))
    found: Rows = {"train": [], "test": []}
    file = root / "images.txt"
    for number, (image, path) in enumerate(_pairs(file), 1):
        if image not in labels or image not in in_train:
            other = "image_class_labels.txt" if image not in labels else "train_test_split.txt"
            raise ValueError(f"{file}:{number}: the image {image} is not in {other}")
        row = ImageRow(ImageFile(root / "images" / path), labels[image], f"{file}:{number}", f"images/{path}")
        found["train" if in_train[image] == "1" else "test"].append(row)
    return found, dict(_pairs(root / "classes.txt"))


def _pairs(file: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        key, blank, value = line.strip().partition(" ")
        if not blank:
            raise ValueError(f"{file}:{number}: a line must be 'id value', got {line.strip()!r:.80}")
        pairs.append((key, value.strip()))
    return pairs


def read_flowers(root: Path) -> tuple[Rows, Names]:
    """Reads Oxford Flowers-102: setid.mat, imagelabels.mat, jpg/image_00001.jpg; classes have numbers only."""
    labels = read_mat(root / "imagelabels.mat")["labels"]
    sets = read_mat(root / "setid.mat")
    found: Rows = {}
    names: dict[Split, str] = {"train": "trnid", "val": "valid", "test": "tstid"}
    for split, name in names.items():
        found[split] = []
        for number in np.atleast_1d(sets[name]):
            key = f"jpg/image_{int(number):05d}.jpg"
            place = f"{root / 'setid.mat'}: {name} {number}"
            found[split].append(ImageRow(ImageFile(root / key), str(int(labels[number - 1])), place, key))
    return found, {}


def read_dogs(root: Path) -> tuple[Rows, Names]:
    """Reads Stanford Dogs: train_list.mat and test_list.mat (perhaps in lists/), Images/."""
    folder = root / "lists" if (root / "lists").is_dir() else root
    found: Rows = {}
    names: Names = {}
    files: dict[Split, Path] = {"train": folder / "train_list.mat", "test": folder / "test_list.mat"}
    for split, file in files.items():
        content = read_mat(file)
        found[split] = []
        for path, label in zip(np.atleast_1d(content["file_list"]), np.atleast_1d(content["labels"]), strict=True):
            row = ImageRow(ImageFile(root / "Images" / path), str(int(label)), f"{file}: {path}", f"Images/{path}")
            found[split].append(row)
            names[row.label] = Path(path).parent.name.partition("-")[2] or Path(path).parent.name
    return found, names


def read_cars(root: Path) -> tuple[Rows, Names]:
    """Reads Stanford Cars: devkit/, cars_train/, cars_test/; the test classes in cars_test_annos_withlabels.mat."""
    labelled = "cars_test_annos_withlabels.mat"
    test = root / labelled if (root / labelled).is_file() else root / "devkit" / labelled
    files: dict[Split, Path] = {"train": root / "devkit" / "cars_train_annos.mat", "test": test}
    found: Rows = {}
    for split, file in files.items():
        found[split] = []
        for row in np.atleast_1d(read_mat(file)["annotations"]):
            key = f"cars_{split}/{row['fname']}"
            found[split].append(ImageRow(ImageFile(root / key), str(int(row["class"])), f"{file}: {row['fname']}", key))
    titles = np.atleast_1d(read_mat(root / "devkit" / "cars_meta.mat")["class_names"])
    return found, {str(number): str(title) for number, title in enumerate(titles, 1)}


def read_mat(file: Path) -> Mapping[str, Any]:
    """Reads a MATLAB file of version 5.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: scipy is not installed.
        ValueError: the content is no such file.
    """
    if not file.is_file():
        raise FileNotFoundError(missing(file))
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
        from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{file}: .mat files need: pip install scipy") from None
    try:
        return loadmat(file, simplify_cells=True)
    except (MatReadError, ValueError, NotImplementedError, TypeError) as error:
        raise ValueError(f"{file}: not a whole .mat file ({error}); download it again") from None


#: The readers of original layouts, by data set.
READERS: dict[str, Callable[[Path], tuple[Rows, Names]]] = {
    "cub": read_birds,
    "nabirds": read_birds,
    "flowers": read_flowers,
    "dogs": read_dogs,
    "cars": read_cars,
}
#: A file that shows an original layout, by data set.
SIGNS: dict[str, Sequence[str]] = {
    "cub": ("images.txt",),
    "nabirds": ("images.txt",),
    "flowers": ("setid.mat",),
    "dogs": ("train_list.mat", "lists/train_list.mat"),
    "cars": ("devkit/cars_train_annos.mat",),
}
