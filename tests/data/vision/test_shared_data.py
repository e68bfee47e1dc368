"""The image data modules on real data."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from wegeft_pl.data import ImageFolderDataModule, PetsDataModule, VTAB1kDataModule

SMALL = {"image_size": 32, "normalization": "half"}


@pytest.mark.parametrize(
    ("mode", "rows"),
    [
        ("search", {"train": 800, "val": 200}),
        pytest.param("final", {"train": 1000, "test": 1500}, marks=pytest.mark.slow),
    ],
)
def test_vtab_caltech101(shared, tmp_path, mode, rows):
    folder = shared / "data/vision/vtab-1k/caltech101"
    module = VTAB1kDataModule(str(folder), mode=mode, cache_dir=str(tmp_path), **SMALL)
    module.setup()
    about = module.describe()
    assert (about["rows"], about["num_classes"], about["group"]) == (rows, 102, "natural")
    other = "val" if mode == "search" else "test"
    name = "val200.txt" if mode == "search" else "test.txt"
    lines = [line.split() for line in (folder / name).read_text().splitlines()]
    loader = module.val_dataloader() if mode == "search" else module.test_dataloader()
    served = {
        row: label
        for batch in loader
        for row, label in zip(batch["indices"].tolist(), batch["labels"].tolist(), strict=True)
    }
    assert served == {row: int(label) for row, (_, label) in enumerate(lines)}
    assert module.image_path(other, 7) == str(folder / lines[7][0])
    names = (folder / "classes.txt").read_text().split()
    assert module.class_names == names
    assert all(lines[row][0].split("/")[-1].startswith(names[served[row]]) for row in range(100))


def test_pets(shared, tmp_path):
    module = PetsDataModule(
        str(shared / "data/vision/oxford_pets_3class"), unreadable="skip", cache_dir=str(tmp_path), val_size=30, **SMALL
    )
    module.setup()
    assert module.describe()["rows"] == {"train": 270, "val": 30, "test": 298}
    assert module.class_names == ["Abyssinian", "american_bulldog", "Bengal"]
    assert Counter(module._splits["val"].labels) == {0: 10, 1: 10, 2: 10}


def test_imagenette(shared, tmp_path):
    module = ImageFolderDataModule(
        str(shared / "data/vision/imagenette_subset"), limit_train=50, cache_dir=str(tmp_path), **SMALL
    )
    module.setup("fit")
    assert module.describe()["rows"] == {"train": 50, "val": 400}
    assert Counter(module._splits["train"].labels) == dict.fromkeys(range(10), 5)
    assert Counter(module._splits["val"].labels) == dict.fromkeys(range(10), 40)
    pixels = torch.cat([batch["pixel_values"] for batch in module.train_dataloader()])
    assert pixels.shape == (50, 3, 32, 32)
    assert -1 <= pixels.min() < -0.9 < 0.9 < pixels.max() <= 1


@pytest.mark.slow
def test_imagenette_in_full(shared, tmp_path):
    module = ImageFolderDataModule(str(shared / "data/vision/imagenette_subset"), cache_dir=str(tmp_path), **SMALL)
    module.setup("fit")
    assert module.describe()["rows"] == {"train": 600, "val": 400}
