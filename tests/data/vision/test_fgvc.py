"""Fine-grained data sets: classes from the training split, the usual split, original layouts and split files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wegeft_pl.data import FGVCDataModule
from wegeft_pl.data.vision.fgvc import FGVC_DATASETS


@pytest.fixture
def make(tmp_path, fields):
    def make(dataset, **changes):
        options = {**fields, "resize_size": 20, **changes}
        module = FGVCDataModule(str(tmp_path), dataset, **options)
        module.setup()
        return module

    return make


def labels(module, split):
    return module._splits[split].labels


def test_the_classes_of_the_training_split(make, save, tmp_path):
    """Validation images of some classes only keep their classes' numbers, which the reference gets wrong."""
    splits = {"train": {"a": 3, "b": 8, "c": 900, "d": 3}, "val": {"e": 900, "f": 3}, "test": {"g": 8}}
    for name, content in splits.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({f"x/{key}.png": label for key, label in content.items()}))
        for key in content:
            save(f"images/x/{key}.png", ord(key))
    module = make("nabirds")
    assert module.class_names == ["3", "8", "900"]
    assert labels(module, "train") == [0, 1, 2, 0]
    assert labels(module, "val") == [2, 0]
    assert labels(module, "test") == [1]
    assert module.image_path("val", 0) == str(tmp_path / "images/x/e.png")
    assert module.describe()["dataset"] == "nabirds"
    (tmp_path / "test.json").write_text(json.dumps({"x/g.png": 77}))
    with pytest.raises(
        ValueError, match=r"test\.json: entry 1: the class '77' is not among the 3 classes .*correct the"
    ):
        make("nabirds")


@pytest.mark.parametrize("dataset", ["cub", "nabirds"])
def test_birds(make, save, tmp_path, dataset):
    rows = [("i1", "5.Owl/1.png", "5", "1"), ("i2", "5.Owl/2.png", "5", "0"), ("i3", "17.Red Kite/3.png", "17", "1")]
    files = {
        "images": [f"{row[0]} {row[1]}" for row in rows],
        "image_class_labels": [f"{row[0]} {row[2]}" for row in rows],
        "train_test_split": [f"{row[0]} {row[3]}" for row in rows],
        "classes": ["5 Owl", "17 Red Kite (adult, male)", "20 Not here"],
    }
    for name, lines in files.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    for number, row in enumerate(rows):
        save(f"images/{row[1]}", number)
    module = make(dataset)
    assert module.class_names == ["Owl", "Red Kite (adult, male)"]
    assert labels(module, "train") == [0, 1]
    assert labels(module, "test") == [0]
    (tmp_path / "train_test_split.txt").write_text("i1 1\ni2 0\n")
    with pytest.raises(ValueError, match=r"images\.txt:3: the image i3 is not in train_test_split\.txt"):
        make(dataset)
    (tmp_path / "classes.txt").write_text("5\n")
    (tmp_path / "train_test_split.txt").write_text("i1 1\ni2 0\ni3 1\n")
    with pytest.raises(ValueError, match=r"classes\.txt:1: a line must be 'id value', got '5'"):
        make(dataset)


@pytest.fixture
def savemat():
    return pytest.importorskip("scipy.io").savemat


def test_flowers(make, save, savemat, tmp_path):
    savemat(tmp_path / "imagelabels.mat", {"labels": [[2, 1, 2, 1, 2]]})
    savemat(tmp_path / "setid.mat", {"trnid": [[1, 4]], "valid": [[2]], "tstid": [[3, 5]]})
    for number in range(1, 6):
        save(f"jpg/image_{number:05d}.jpg", number)
    module = make("flowers")
    assert (labels(module, "train"), labels(module, "val"), labels(module, "test")) == ([1, 0], [0], [1, 1])
    assert module.class_names == ["1", "2"]
    assert module.image_path("test", 0).endswith("jpg/image_00003.jpg")


@pytest.mark.parametrize("below", ["", "lists/"])
def test_dogs(make, save, savemat, tmp_path, below):
    (tmp_path / below).mkdir(exist_ok=True)
    for name, paths, numbers in (
        ("train", ["n01-pug/a.jpg", "n02-toy_poodle/b.jpg"], [1, 2]),
        ("test", ["n02-toy_poodle/c.jpg"], [2]),
    ):
        cells = np.array([[path] for path in paths], dtype=object)
        savemat(tmp_path / below / f"{name}_list.mat", {"file_list": cells, "labels": np.array(numbers)[:, None]})
        for path in paths:
            save(f"Images/{path}")
    module = make("dogs")
    assert module.class_names == ["pug", "toy_poodle"]
    assert (labels(module, "train"), labels(module, "test")) == ([0, 1], [1])


@pytest.mark.parametrize("below", ["", "devkit/"])
def test_cars(make, save, savemat, tmp_path, below):
    def annotations(*rows):
        return {"annotations": np.array([list(rows)], dtype=[("fname", object), ("class", object)])}

    (tmp_path / "devkit").mkdir()
    savemat(tmp_path / "devkit/cars_train_annos.mat", annotations(("1.jpg", 2), ("2.jpg", 1), ("3.jpg", 2)))
    savemat(tmp_path / f"{below}cars_test_annos_withlabels.mat", annotations(("1.jpg", 1)))
    titles = np.array([["Audi TT 2012", "BMW M3 2012"]], dtype=object)
    savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": titles})
    for name in ("cars_train/1", "cars_train/2", "cars_train/3", "cars_test/1"):
        save(f"{name}.jpg")
    module = make("cars")
    assert module.class_names == ["Audi TT 2012", "BMW M3 2012"]
    assert (labels(module, "train"), labels(module, "test")) == ([1, 0, 1], [0])


def test_the_usual_share_is_held_out(make, save, tmp_path):
    for number in range(20):
        save(f"images/{number}.png", number)
    (tmp_path / "train.json").write_text(json.dumps({f"images/{number}.png": number % 2 for number in range(20)}))
    assert make("cub").describe()["rows"] == {"train": 18, "val": 2}
    assert make("cub", val_size=0).describe()["rows"] == {"train": 20}
    assert make("cub", val_size=5).describe()["rows"] == {"train": 15, "val": 5}


@pytest.mark.parametrize(
    ("name", "original"), [("cub", 5994), ("nabirds", 23929), ("dogs", 12000), ("cars", 8144)]
)  # fmt: skip
def test_the_share_of_the_whole_is_the_usual_number(tmp_path, fields, name, original):
    module = FGVCDataModule(str(tmp_path), name, **fields)
    assert module.sizes_to_hold_out({"train": [None] * original})["val"] == FGVC_DATASETS[name].val


def test_the_protocol_is_the_default(tmp_path):
    module = FGVCDataModule(str(tmp_path), "cub", normalization="imagenet")
    assert module.protocol.startswith("224 x 224 from 256, resize shorter bicubic, train_transform crop_flip, ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"train\.json:1: not valid JSON"),
        ("[]", r"train\.json: expected an object like \{\"image path\": class id\} with at least one image"),
        ("{}", r"train\.json: expected an object"),
        ('{"a.png": 1.5}', r"train\.json: entry 1: the class of 'a\.png' must be a number or a name, got 1\.5"),
    ],
)
def test_what_is_no_split_file(make, tmp_path, content, message):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        make("cub")


def test_neither_layout(make, tmp_path, savemat):
    with pytest.raises(
        FileNotFoundError, match=r"has neither train\.json nor train_list\.mat or lists/train_list\.mat"
    ):
        make("dogs")
    (tmp_path / "setid.mat").write_bytes(b"no such file")
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*imagelabels\.mat"):
        make("flowers")
    (tmp_path / "imagelabels.mat").write_bytes(b"no such file")
    with pytest.raises(ValueError, match=r"imagelabels\.mat: not a whole \.mat file .*download it again"):
        make("flowers")
