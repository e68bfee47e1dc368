"""Oxford Pets: annotations, breeds, and lists that name more than there is."""

from __future__ import annotations

import pytest

from wegeft_pl.data import PetsDataModule


@pytest.fixture
def pets(save, tmp_path):
    """Two breeds on disk, a third one in the lists only, and one missing file of the first."""
    folder = tmp_path / "pets" / "annotations"
    folder.mkdir(parents=True)
    for name in ("Bengal_1", "Bengal_2", "saint_bernard_1", "saint_bernard_2"):
        save(f"pets/images/{name}.jpg")
    train = ["Bengal_1 6 1 2", "Bengal_3 6 1 2", "saint_bernard_1 29 2 3", "pug_1 25 2 4"]
    (folder / "trainval.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n" + "\n".join(train) + "\n")
    (folder / "test.txt").write_text("Bengal_2 6 1 2\nsaint_bernard_2 29 2 3\npug_2 25 2 4\n")
    return tmp_path / "pets"


def test_what_is_there(pets, fields, capsys):
    module = PetsDataModule(str(pets), unreadable="skip", **fields)
    module.setup()
    about = module.describe()
    assert module.class_names == ["Bengal", "saint_bernard"]
    assert about["rows"] == {"train": 2, "test": 2}
    assert about["missing"] == {"train": 1, "test": 0}
    assert about["other_breeds"] == {"train": 1, "test": 1}
    assert module._splits["test"].labels == [0, 1]
    said = capsys.readouterr().out
    assert "train: 1 rows left out, of breeds without a training image here" in said
    assert "train: 1 of 3 images left out, 1 missing and 0 unreadable; the first: " in said


def test_what_is_missing_is_an_error(pets, fields):
    module = PetsDataModule(str(pets), **fields)
    assert module.class_names == ["Bengal", "pug", "saint_bernard"]
    with pytest.raises(FileNotFoundError, match=r"trainval\.txt:3: no file or folder .*Bengal_3\.jpg"):
        module.setup("fit")


def test_no_image_at_all(pets, fields):
    for image in (pets / "images").iterdir():
        image.unlink()
    with pytest.raises(ValueError, match=r"data\.path: none of 4 training images is in .*images"):
        PetsDataModule(str(pets), unreadable="skip", **fields).setup("fit")


@pytest.mark.parametrize("line", ["Bengal_1 6 1", "Bengal_1 six 1 2"])
def test_what_is_no_annotation(pets, fields, line):
    (pets / "annotations" / "test.txt").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"test\.txt:1: a line must be 'name class species breed', got 'Bengal"):
        PetsDataModule(str(pets), **fields).setup("test")
    (pets / "annotations" / "test.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"test\.txt: no rows; the list is empty"):
        PetsDataModule(str(pets), **fields).setup("test")
