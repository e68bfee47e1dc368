"""Folders of images: which split, which class, and what is no image."""

from __future__ import annotations

import pytest

from wegeft_pl.data import ImageFolderDataModule


@pytest.fixture
def make(tmp_path, fields):
    return lambda name="set", **changes: ImageFolderDataModule(str(tmp_path / name), **{**fields, **changes})


def test_the_splits_by_their_folders(make, save):
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        for label in ("ant", "bee"):
            for number in range(count):
                save(f"set/{split}/{label}/{number}.png", number)
    module = make()
    module.setup()
    assert module.describe()["rows"] == {"train": 6, "val": 4, "test": 2}


def test_classes_alone_are_train(make, save):
    for number in range(4):
        save(f"set/ant/{number}.png")
        save(f"set/bee/deeper/{number}.JPEG")
    module = make(val_size=2)
    module.setup("fit")
    assert module.describe()["rows"] == {"train": 6, "val": 2}
    assert module.class_names == ["ant", "bee"]


def test_other_files_are_counted_and_told(make, save, tmp_path, capsys):
    for label in ("ant", "bee"):
        save(f"set/train/{label}/0.png")
        (tmp_path / "set/train" / label / "notes.txt").write_text("x")
    (tmp_path / "set/train/Thumbs.db").write_text("x")
    module = make()
    module.setup("fit")
    assert module.describe()["rows"] == {"train": 2}
    assert module.describe()["other_files"] == {"train": 3}
    assert "train: 3 files in " in (said := capsys.readouterr().out)
    assert "are no images by their ending: 2 .txt, 1 .db" in said


def test_an_image_beside_the_classes(make, save):
    save("set/train/ant/0.png")
    save("set/train/stray.png")
    with pytest.raises(ValueError, match=r"stray\.png: an image must lie in the folder of its class, such as .*CLASS/"):
        make().setup("fit")


def test_nothing_there(make, save, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.path: no file or folder .*set"):
        make().setup("fit")
    (tmp_path / "set").mkdir()
    with pytest.raises(ValueError, match=r"data\.path: .*set has no images; expected a folder for each class"):
        make().setup("fit")
    (tmp_path / "set" / "train" / "ant").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"data\.path: .*train has no images"):
        make().setup("fit")
    save("file.png")
    with pytest.raises(ValueError, match=r"file\.png is a file; expected a folder with train"):
        make("file.png").setup("fit")


def test_splits_that_cannot_be(make, save):
    save("set/val/ant/0.png")
    with pytest.raises(ValueError, match="has no train folder, which the classes come from; it has val"):
        make().setup("fit")
    save("set/train/ant/0.png")
    save("set/valid/ant/0.png")
    with pytest.raises(ValueError, match="has both val and valid; keep one"):
        make().setup("fit")
