"""Encoded images of any common kind to 8-bit RGB."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np

from wegeft_pl.data.vision.stored import StoredImage

if TYPE_CHECKING:
    from PIL import Image

#: Largest value of a 16-bit sample over the largest of an 8-bit one.
_TO_8_BITS = 257

#: What the plugins of Pillow raise for damaged files (tried with random damage), beside its error for huge ones.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, struct.error)


class UnreadableImageError(ValueError):
    """A file that should be an image and cannot be read as one."""


def decode(stored: StoredImage) -> Image.Image:
    """Reads an image as 8-bit RGB, the right way up.

    EXIF orientation is applied. Gray, palette and CMYK images are converted, 16-bit samples are scaled by 1/257, what
    is transparent shows white, and of an animation the first frame is taken.

    Args:
        stored: where the image is.

    Returns:
        An RGB image.

    Raises:
        OSError: the file cannot be read at all.
        UnreadableImageError: it is empty, no image, cut off, or of a kind without a fixed range of values.
    """
    from PIL import Image, ImageOps  # text needs none: it may be absent there

    content = stored.read()
    try:
        if not content:
            raise ValueError("it is empty, 0 bytes")
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise UnreadableImageError(unreadable(stored.name, _reason(error))) from error


def unreadable(name: str, reason: str) -> str:
    """Words the error for an image that cannot be read."""
    return f"{name}: cannot be read as an image ({reason}); repair or remove it, or set data.unreadable to skip"


def _reason(error: BaseException) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "its content is of no known image format"
    return str(error).split("\n")[0] or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.mode == "F":
        raise ValueError("32-bit float samples have no fixed range of values; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, "white")
        return Image.alpha_composite(white, layers).convert("RGB")
    return image.convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    from PIL import Image

    samples = np.asarray(image).astype(np.int64)
    low, high = int(samples.min()), int(samples.max())
    if low < 0 or high >= 256 * 256:
        raise ValueError(f"integer samples from {low} to {high} are not 16-bit; save it with 8 or 16 bits")
    return Image.fromarray(((samples + _TO_8_BITS // 2) // _TO_8_BITS).astype(np.uint8)).convert("RGB")
