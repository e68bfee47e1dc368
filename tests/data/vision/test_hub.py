"""Data sets of the hub, by a stand-in: tables of the datasets library made here."""

from __future__ import annotations

import pytest
from PIL import Image

from wegeft_pl.data import HubImageDataModule

datasets = pytest.importorskip("datasets")


@pytest.fixture
def hub(monkeypatch, noise):
    """Answers for the hub: two splits with a ClassLabel, in a configuration."""
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["zebra", "ant", "cow"]),
            "word": datasets.Value("string"),
        }
    )

    def table(seed, kinds):
        images = [Image.fromarray(noise(seed + number)) for number in range(len(kinds))]
        words = [f"word{kind}" for kind in kinds]
        return datasets.Dataset.from_dict({"picture": images, "kind": kinds, "word": words}, features=features)

    tables = {"train": table(0, [2, 0, 2, 0]), "test": table(50, [0, 2])}
    asked = []

    def load_dataset(path, config, split):
        asked.append((path, config, split))
        if split not in tables:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(tables)}.')
        return tables[split]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return asked


@pytest.fixture
def make(fields):
    names = {"config": "small", "image_column": "picture", "label_column": "kind"}
    return lambda **changes: HubImageDataModule("someone/animals", **{**names, **fields, **changes})


def test_rows(hub, make, noise):
    module = make(num_workers=0)
    module.prepare_data()
    module.setup()
    assert ("someone/animals", "small", "train") in hub
    assert module.class_names == ["zebra", "ant", "cow"]
    assert module.describe()["rows"] == {"train": 4, "test": 2}
    assert module.image_path("test", 1) == "someone/animals test: row 2"
    batch = next(iter(module.test_dataloader()))
    assert batch["labels"].tolist() == [0, 2]
    expected = Image.fromarray(noise(51)).resize((16, 16), Image.Resampling.BICUBIC)
    assert (batch["pixel_values"][1].permute(1, 2, 0) * 255).round().int().numpy().tolist() == [
        [list(expected.getpixel((x, y))) for x in range(16)] for y in range(16)
    ]


def test_labels_that_are_words(hub, make):
    module = make(label_column="word", test_split=None)
    module.setup("fit")
    assert module.class_names == ["word0", "word2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_column": "img"}, r"someone/animals train: no column 'img'; there are: picture, kind, word"),
        ({"image_column": "word"}, r"column 'word' holds .*, not images; see data\.image_column"),
        ({"val_split": "dev"}, r"cannot load split 'dev' of someone/animals \(Unknown split .*check data\.path"),
    ],
)
def test_faults(hub, make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes).setup("fit")


def test_rows_without_a_class(hub, make, monkeypatch, noise):
    table = datasets.Dataset.from_dict(
        {"picture": [Image.fromarray(noise(0))], "kind": [-1]},
        features=datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b"])}),
    )
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: table)
    with pytest.raises(ValueError, match="train: row 1: the class must be a name or a number from 0, got -1"):
        make(test_split=None).setup("fit")


def test_a_local_folder_of_images(folder, fields, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    module = HubImageDataModule(str(folder), test_split=None, val_split="validation", **fields)
    module.setup("fit")
    assert module.class_names == ["ant", "bee", "cow"]
    assert module.describe()["rows"] == {"train": 12, "val": 3}
