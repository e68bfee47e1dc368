"""Where images are kept, and when they count as changed."""

from __future__ import annotations

import os

import pytest

from wegeft_pl.data.vision.stored import HubImage, ImageFile


def test_a_file_s_stamp_changes_with_its_content(save):
    image = ImageFile(save("a.png"))
    before, fact = image.stamp(), image.fact()
    os.utime(image.path, ns=(1, 1))
    assert image.stamp() != before
    assert image.fact() == fact
    image.path.write_bytes(image.read() + b"x")
    assert image.fact() != fact
    image.path.unlink()
    with pytest.raises(FileNotFoundError):
        image.stamp()


def test_a_cell_holds_bytes_or_names_a_file(save):
    path = save("a.png")
    table = [{"image": {"bytes": b"abc", "path": None}}, {"image": {"bytes": None, "path": str(path)}}]
    images = [HubImage(table, row, "image", "someone/set train", "f") for row in range(2)]
    assert [image.read() for image in images] == [b"abc", path.read_bytes()]
    assert images[1].name == "someone/set train: row 2"
    assert images[0].stamp() != images[1].stamp()
