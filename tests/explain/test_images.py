"""Images and masks from folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from explain.small_vision import write_pictures
from PIL import Image

from wegeft_pl.explain import image_files, normalise, read_images, read_masks


def test_files_are_found_below_and_spread(tmp_path: Path) -> None:
    images, _ = write_pictures(tmp_path)
    (images / "notes.txt").touch()
    assert [file.name for file in image_files(images)] == [f"{index}.png" for index in range(6)]
    assert [file.stem for file in image_files(images, 3)] == ["0", "2", "4"]
    assert len(image_files(images, 7)) == 6
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        image_files(images, 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no images; give a folder of \.jpg"):
        image_files(tmp_path / "empty")
    with pytest.raises(ValueError, match="nowhere is no folder"):
        image_files(tmp_path / "nowhere")


def test_pixels_are_pillows(tmp_path: Path) -> None:
    images, _ = write_pictures(tmp_path)
    files = image_files(images)
    found = read_images(files, 16)
    expected = np.asarray(Image.open(files[1]).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(found[1].permute(1, 2, 0).numpy(), expected)
    scaled = normalise(found, (0.1, 0.2, 0.3), (0.5, 0.25, 1.0))
    assert scaled.dtype == torch.float32
    np.testing.assert_allclose(
        scaled[1].permute(1, 2, 0).numpy(), (expected / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 1.0], atol=1e-5
    )


def test_grey_images_become_colours(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    assert read_images([tmp_path / "grey.png"], 4).eq(77).all()


def test_masks(tmp_path: Path) -> None:
    images, folder = write_pictures(tmp_path)
    files = image_files(images)
    masks = read_masks(files, images, folder, 24, 1, 3)
    labels = np.asarray(Image.open(folder / "a/2.png").resize((24, 24), Image.Resampling.NEAREST))
    assert np.array_equal(masks.target[2].numpy(), labels == 1)
    assert np.array_equal(masks.valid[2].numpy(), labels != 3)
    assert read_masks(files, images, folder, 24, 1, None).valid.all()
    assert masks.has_object.all()
    Image.new("L", (20, 24), 2).save(folder / "a/0.png")
    masks = read_masks(files, images, folder, 24, 1, 3)
    assert masks.has_object.tolist() == [False, True, True, True, True, True]
    assert len(masks.only(masks.has_object).target) == 5


def test_mistakes_name_the_file(tmp_path: Path) -> None:
    images, folder = write_pictures(tmp_path)
    files = image_files(images)
    with pytest.raises(ValueError, match=r"no mask in .* has a pixel of the value 9, they hold \[1, 2, 3\]"):
        read_masks(files, images, folder, 24, 9, None)
    Image.new("RGB", (4, 4)).save(folder / "a/1.png")
    with pytest.raises(ValueError, match=r"a/1\.png has 3 channels; a label map has one"):
        read_masks(files, images, folder, 24, 1, None)
    (folder / "a/1.png").unlink()
    with pytest.raises(ValueError, match=r"no file .*a/1\.png for the image 1\.png"):
        read_masks(files, images, folder, 24, 1, None)
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(folder / "a/1.png")
    with pytest.raises(ValueError, match=r"a/1\.png has pixels of mode I.*8 bits a channel"):
        read_masks(files, images, folder, 24, 1, None)
    files[0].write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a/0\.png cannot be read as an image .*remove it"):
        read_images(files, 16)
