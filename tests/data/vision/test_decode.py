"""Images of every kind to 8-bit RGB, and files that are none."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from wegeft_pl.data.vision.decode import UnreadableImageError, decode
from wegeft_pl.data.vision.stored import ImageFile


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def read(tmp_path):
    """Writes bytes under a name and decodes that file."""

    def read(content, name="image.png"):
        path = tmp_path / name
        path.write_bytes(content)
        image = decode(ImageFile(path))
        assert image.mode == "RGB"
        return np.asarray(image)

    return read


def test_rgb_as_it_is(read, noise):
    pixels = noise(0)
    assert np.array_equal(read(encoded(Image.fromarray(pixels), "PNG")), pixels)


def test_gray_becomes_three_equal_channels(read, noise):
    gray = noise(1)[:, :, 0]
    pixels = read(encoded(Image.fromarray(gray), "PNG"))
    assert np.array_equal(pixels, np.stack([gray] * 3, axis=2))


def test_16_bit_samples_are_scaled_not_cut(read):
    samples = np.array([[0, 128, 257], [32896, 65407, 65535]], np.uint16)
    pixels = read(encoded(Image.fromarray(samples), "PNG"))
    assert pixels[:, :, 0].tolist() == [[0, 0, 1], [128, 255, 255]]


def test_32_bit_samples_have_no_range(read):
    samples = np.array([[0, 70000]], np.int32)
    with pytest.raises(UnreadableImageError, match=r"image\.tif.*from 0 to 70000 are not 16-bit; save it with 8"):
        read(encoded(Image.fromarray(samples), "TIFF"), "image.tif")
    with pytest.raises(UnreadableImageError, match="float samples have no fixed range"):
        read(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "image.tif")


def test_cmyk(read):
    inks = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # cyan
    pixels = read(encoded(inks, "JPEG", quality=100), "image.jpg")
    assert np.abs(pixels.astype(int) - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize("kind", ["palette", "alpha", "gray and alpha"])
def test_what_is_transparent_shows_white(read, kind):
    if kind == "palette":
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.putpixel((1, 0), 1)
        content, seen = encoded(image, "PNG", transparency=0), [200, 100, 50]
    elif kind == "alpha":
        image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
        image.putpixel((1, 0), (200, 100, 50, 255))
        content, seen = encoded(image, "PNG"), [200, 100, 50]
    else:
        image = Image.new("LA", (2, 1), (0, 0))
        image.putpixel((1, 0), (90, 255))
        content, seen = encoded(image, "PNG"), [90, 90, 90]
    assert read(content)[0].tolist() == [[255, 255, 255], seen]


def test_palette_transparency_in_bytes(read):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert read(encoded(image, "PNG", transparency=b"\x00\xff"))[0].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_the_first_frame_of_an_animation(read):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read(content, "image.gif") == [255, 0, 0]).all()


def test_exif_orientation_is_applied(read, noise):
    pixels = noise(2)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned a quarter clockwise
    turned = read(encoded(Image.fromarray(pixels), "PNG", exif=exif))
    assert np.array_equal(turned, np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty, 0 bytes"),
        (b"this is a text", "its content is of no known image format"),
        (b"\x89PNG\r\n\x1a\n", "its content is of no known image format"),
    ],
)
def test_no_images(read, content, reason):
    with pytest.raises(UnreadableImageError, match=rf"photo\.jpg: cannot be read as an image \({reason}\); repair or"):
        read(content, "photo.jpg")


def test_cut_off(read, noise):
    whole = encoded(Image.fromarray(noise(3, 64, 64)), "JPEG")
    with pytest.raises(UnreadableImageError, match=r"photo\.jpg: .*truncated.*data\.unreadable to skip"):
        read(whole[: len(whole) // 2], "photo.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_no_damage_raises_anything_else(read, noise):
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP"):
        whole = encoded(Image.fromarray(noise(4)), kind, **({"exif": exif} if kind in ("JPEG", "PNG") else {}))
        for _ in range(40):
            damaged = bytearray(whole)
            for _ in range(4):
                damaged[random.integers(len(damaged))] = random.integers(256)
            with contextlib.suppress(UnreadableImageError):  # some damage is in the pixels only
                read(bytes(damaged), "photo")
