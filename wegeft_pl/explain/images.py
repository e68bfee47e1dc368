"""A folder of images, and one of masks beside it, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wegeft_pl.explain.required import require

#: Endings of files that count as images.
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
#: Mean and standard deviation of the three channels, of values in [0, 1].
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@dataclass(frozen=True)
class Masks:
    """What is known of where the objects are.

    Args:
        target: (N, H, W) bool, true on the object.
        valid: (N, H, W) bool, true where a pixel counts.
    """

    target: Tensor
    valid: Tensor

    @property
    def has_object(self) -> Tensor:
        """(N,) bool: which images show the object at all; the others cannot be scored."""
        return self.target.any(dim=(1, 2))

    def only(self, images_N: Tensor) -> Masks:  # noqa: N803
        """The masks of some images, chosen by a bool (N,)."""
        return Masks(self.target[images_N], self.valid[images_N])


def image_files(folder: Path, limit: int | None = None) -> list[Path]:
    """The images of a folder and the folders in it, in the order of their paths.

    Args:
        folder: to look in.
        limit: so many, evenly spread over all of them; None means all.

    Raises:
        ValueError: there is no image, or no such folder.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not files:
        problem = "has no images" if folder.is_dir() else "is no folder"
        raise ValueError(f"images: {folder} {problem}; give a folder of {', '.join(ENDINGS)} files")
    if limit is None or limit >= len(files):
        return files
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    return [files[index * len(files) // limit] for index in range(limit)]


def read_images(files: Sequence[Path], size: int) -> Tensor:
    """Reads images as colours and resizes them to squares, bicubic, without cropping.

    Returns:
        (N, 3, size, size) uint8.

    Raises:
        ValueError: a file is no image that can be read.
    """
    return torch.stack([_pixels(file, size, "RGB", "BICUBIC").permute(2, 0, 1) for file in files])


def normalise(images_N3HW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:  # noqa: N803
    """From bytes to what a backbone was trained on: (x / 255 - mean) / std, float32."""
    scaled = images_N3HW.float() / 255
    return (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def read_masks(
    files: Sequence[Path], images: Path, masks: Path, size: int, object_value: int, ignored_value: int | None
) -> Masks:
    """Reads the masks of images: PNG files of the same name, label maps of one channel.

    Args:
        files: the images.
        images: the folder that they are in.
        masks: the folder that has masks under the same names, with the ending .png.
        size: of the images, in pixels; masks are resized to it as the images are, by nearest neighbour.
        object_value: the label of the object.
        ignored_value: a label that does not count (a trimap's border); None: all count.

    Raises:
        ValueError: a mask is missing or no label map, or no mask has a pixel of the object.
    """
    targets, valid = [], []
    values: set[int] = set()
    for file in files:
        path = masks / file.relative_to(images).with_suffix(".png")
        if not path.is_file():
            raise ValueError(f"masks: no file {path} for the image {file.name}; give the folder of its masks")
        labels = _pixels(path, size, None, "NEAREST")
        if labels.ndim != 2:
            raise ValueError(f"masks: {path} has {labels.shape[2]} channels; a label map has one")
        values |= set(labels.unique().tolist())
        targets.append(labels == object_value)
        valid.append(torch.ones_like(targets[-1]) if ignored_value is None else labels != ignored_value)
    if object_value not in values:
        raise ValueError(
            f"masks: no mask in {masks} has a pixel of the value {object_value}, they hold {sorted(values)[:8]}; say "
            "which value is the object"
        )
    return Masks(torch.stack(targets), torch.stack(valid))


def _pixels(file: Path, size: int, mode: str | None, filter_name: str) -> Tensor:
    pillow: Any = require("PIL.Image")
    try:
        with pillow.open(file) as image:
            converted = image if mode is None else image.convert(mode)
            resized = converted.resize((size, size), pillow.Resampling[filter_name])
            shape = (size, size) if len(resized.getbands()) == 1 else (size, size, len(resized.getbands()))
            # A palette's indices and bytes alike; a bytearray, because torch wants to be able to write.
            content = bytearray(resized.tobytes())
    except OSError as error:  # Pillow's own errors are of this kind
        raise ValueError(f"{file} cannot be read as an image ({error}); remove it or replace it") from error
    if len(content) != torch.Size(shape).numel():
        raise ValueError(f"{file} has pixels of mode {resized.mode}; save it with 8 bits a channel")
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)
