"""Files that are missing or broken, and pixels that are too many or cannot be kept."""

from __future__ import annotations

import pytest
import torch
from torch._utils import ExceptionWrapper

from wegeft_pl.data import ImageFolderDataModule, ImageListDataModule
from wegeft_pl.data.vision.decode import UnreadableImageError


@pytest.fixture
def listed(save, tmp_path):
    """A data set of six listed images of two classes."""
    for number in range(6):
        save(f"set/{number}.png", number)
    (tmp_path / "set" / "train.txt").write_text("".join(f"{number}.png {number % 2}\n" for number in range(6)))
    return tmp_path / "set"


@pytest.fixture
def make(listed, fields):
    return lambda **changes: ImageListDataModule(
        str(listed), val_list=None, test_list=None, **{**fields, "num_workers": 0, **changes}
    )


def rows(module):
    module.setup("fit")
    batches = list(module.train_dataloader())
    assert sorted(row for batch in batches for row in batch["indices"].tolist()) == list(
        range(module.describe()["rows"]["train"])
    )
    return {
        module.image_path("train", row).rsplit("/", 1)[1]: (label, pixels)
        for batch in batches
        for row, label, pixels in zip(
            batch["indices"].tolist(), batch["labels"].tolist(), batch["pixel_values"], strict=True
        )
    }


def test_a_missing_file_is_named_with_its_line(make, listed):
    (listed / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.txt:4: no file or folder .*3\.png.*data\.unreadable to skip"):
        make().setup("fit")


@pytest.mark.parametrize("cache", [True, False])
def test_left_out_counted_and_told_once(make, listed, capsys, cache):
    everything = rows(make(cache_pixels=cache))
    (listed / "1.png").unlink()
    (listed / "2.png").write_bytes(b"")
    (listed / "4.png").write_text("text")
    module = make(unreadable="skip", cache_pixels=cache)
    left = rows(module)
    assert set(left) == {"0.png", "3.png", "5.png"}
    for name, (label, pixels) in left.items():
        assert label == everything[name][0]
        assert torch.equal(pixels, everything[name][1])
    about = module.describe()
    assert (about["rows"], about["missing"], about["unreadable"]) == ({"train": 3}, {"train": 1}, {"train": 2})
    said = capsys.readouterr().out
    assert said.count("left out") == 1
    assert "train: 3 of 6 images left out, 1 missing and 2 unreadable; the first: " in said
    assert "train.txt:2: no file or folder" in said


def test_a_broken_file_stops_the_run_where_it_is_read(make, listed):
    (listed / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2\.png: cannot be read as an image \(it is empty, 0 bytes\)"):
        make().setup("fit")
    module = make(cache_pixels=False)
    module.setup("fit")
    with pytest.raises(ValueError, match=r"2\.png: cannot be read as an image"):
        list(module.train_dataloader())


def test_the_file_s_name_gets_out_of_a_worker():
    try:
        raise UnreadableImageError("photo.jpg: cannot be read")
    except UnreadableImageError:
        sent = ExceptionWrapper(where="in a worker")  # as the DataLoader does
    with pytest.raises(UnreadableImageError, match=r"photo\.jpg: cannot be read"):
        sent.reraise()


def test_nothing_is_left(make, listed):
    for number in range(6):
        (listed / f"{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train: none of 6 images can be read; the first: .*0\.png.*it is empty"):
        make(unreadable="skip").setup("fit")
    for number in range(6):
        (listed / f"{number}.png").unlink()
    with pytest.raises(ValueError, match=r"train: none of 6 images can be read; the first: .*train\.txt:1: no file"):
        make(unreadable="skip").setup("fit")


def test_too_many_pixels_to_keep(make, capsys, tmp_path):
    # Six squares of 512 pixels: 4.5 MiB.
    with pytest.raises(ValueError, match=r"train: the pixels take \d MiB, more than data\.cache_limit_mib=2; raise it"):
        make(image_size=512, cache_pixels=True, cache_limit_mib=2).setup("fit")
    module = make(image_size=512, cache_limit_mib=2)
    assert len(rows(module)) == 6
    assert "more than data.cache_limit_mib=2; images are decoded each time" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written(make, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot keep pixels in .*file/cache .*name another folder in data\.cache_dir"):
        make(cache_dir=str(tmp_path / "file" / "cache"), cache_pixels=True).setup("fit")
    module = make(cache_dir=str(tmp_path / "file" / "cache"))
    assert len(rows(module)) == 6
    assert "images are decoded each time" in capsys.readouterr().out
    with pytest.raises(OSError, match=r"cannot keep in .* which images are unreadable .*data\.unreadable to error"):
        make(cache_dir=str(tmp_path / "file" / "cache"), unreadable="skip").setup("fit")


def test_whole_images_are_not_kept(folder, fields, tmp_path, timm):
    module = ImageFolderDataModule(str(folder), **fields, train_transform="timm", num_workers=0)
    module.setup("fit")
    assert len(list((tmp_path / "cache").glob("*.lock"))) == 1  # of the validation images
    assert len(list(module.train_dataloader())) == 3


@pytest.mark.parametrize("unreadable", ["error", "skip"])
def test_nothing_is_kept(make, listed, tmp_path, monkeypatch, unreadable):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if unreadable == "skip":
        (listed / "2.png").write_bytes(b"")
    module = make(cache_dir=None, unreadable=unreadable)
    assert len(rows(module)) == (5 if unreadable == "skip" else 6)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_pixels_cannot_be_kept_nowhere(make):
    with pytest.raises(
        ValueError, match=r"data\.cache_pixels keeps pixels on disk, but data\.cache_dir is null; name a"
    ):
        make(cache_dir=None, cache_pixels=True)
