"""Pixels kept on disk: the same as decoded anew, and never those of another image or size."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from wegeft_pl.data.vision.decode import decode
from wegeft_pl.data.vision.pixels import estimated_mib, find_unreadable, keep_pixels
from wegeft_pl.data.vision.stored import ImageFile
from wegeft_pl.data.vision.transforms import ImageSize


@pytest.fixture
def images(save):
    return [ImageFile(save(f"{number}.png", number, 20 + number, 40)) for number in range(5)]


def built(folder):
    return sorted(item.name for item in folder.iterdir() if item.is_dir())


@pytest.mark.parametrize("size", [ImageSize(16), ImageSize(16, "shorter", 18)])
def test_as_decoded_anew(images, tmp_path, size):
    kept = keep_pixels(images, size, tmp_path / "cache")
    assert len(kept) == 5
    assert not kept.unreadable
    for row in (3, 0, 4, 2, 1):
        assert torch.equal(kept[row], size.shrink(decode(images[row])))
    assert (tmp_path / "cache" / built(tmp_path / "cache")[0] / "pixels.bin").stat().st_size == sum(
        pixels.numel() for pixels in kept
    )


def test_later_runs_only_read(images, tmp_path, monkeypatch):
    first = keep_pixels(images, ImageSize(16), tmp_path / "cache")
    monkeypatch.setattr("wegeft_pl.data.vision.pixels.decode", lambda image: pytest.fail("decoded again"))
    again = keep_pixels(images, ImageSize(16), tmp_path / "cache")
    assert all(torch.equal(first[row], again[row]) for row in range(5))


def test_another_size_order_or_content_is_another_folder(images, tmp_path, noise):
    cache = tmp_path / "cache"
    sizes = [ImageSize(16), ImageSize(17), ImageSize(16, interpolation="nearest"), ImageSize(16, "shorter")]
    for number, size in enumerate(sizes, 1):
        keep_pixels(images, size, cache)
        assert len(built(cache)) == number
    turned = keep_pixels(images[::-1], sizes[0], cache)
    assert torch.equal(turned[0], sizes[0].shrink(decode(images[4])))
    # A crop is done afterwards: the same pixels serve it.
    keep_pixels(images, ImageSize(12, resize_size=16), cache)
    assert len(built(cache)) == 5

    stat = images[2].path.stat()
    Image.fromarray(noise(99)).save(images[2].path)
    os.utime(images[2].path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = keep_pixels(images, sizes[0], cache)
    assert torch.equal(changed[2], sizes[0].shrink(Image.fromarray(noise(99))))


def test_what_cannot_be_read_is_remembered(images, tmp_path):
    images[1].path.write_bytes(b"")
    kept = keep_pixels(images, ImageSize(16), tmp_path / "cache")
    assert list(kept.unreadable) == [1]
    assert "1.png: cannot be read as an image (it is empty, 0 bytes)" in kept.unreadable[1]
    assert torch.equal(kept[2], ImageSize(16).shrink(decode(images[2])))


def test_find_unreadable(images, tmp_path, monkeypatch):
    images[3].path.write_text("text")
    found = find_unreadable(images, tmp_path / "cache")
    assert list(found) == [3]
    monkeypatch.setattr("wegeft_pl.data.vision.pixels.decode", lambda image: pytest.fail("decoded again"))
    assert find_unreadable(images, tmp_path / "cache") == found


def test_a_copy_for_a_worker_is_small_and_reads_the_same(images, tmp_path):
    kept = keep_pixels(images, ImageSize(64), tmp_path / "cache")
    pixels = kept[4]
    copied = pickle.dumps(kept)
    assert len(copied) < 3 * 64 * 64
    assert torch.equal(pickle.loads(copied)[4], pixels)


def test_a_missing_image(tmp_path):
    with pytest.raises(FileNotFoundError):
        keep_pixels([ImageFile(Path(tmp_path / "none.png"))], ImageSize(16), tmp_path / "cache")


def test_the_estimate(images, tmp_path):
    kept = keep_pixels(images, ImageSize(16), tmp_path / "cache")
    assert estimated_mib(5, ImageSize(16)) * 2**20 == sum(pixels.numel() for pixels in kept)
    assert estimated_mib(5, ImageSize(16, "shorter")) > estimated_mib(5, ImageSize(16))
