"""Resizing, which is the same every time, and augmentation, which depends on seed, epoch and row only.

Shapes: H, W of a resized image; S the model's image size.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

TrainTransform = Literal["none", "flip", "crop_flip", "timm"]
Resize = Literal["exact", "shorter"]
Interpolation = Literal["bicubic", "bilinear", "lanczos", "nearest"]


@dataclass(frozen=True)
class ImageSize:
    """How images are brought to the model's size.

    Args:
        image_size: S, pixels of a side that the model gets.
        resize: ``exact``: to a square, whatever the shape; ``shorter``: the shorter side, the shape kept.
        resize_size: pixels of the square or the shorter side before cropping to S; null: S.
        interpolation: of the resize.

    Raises:
        ValueError: a size is below 1, or images would be smaller than what is cropped out of them.
    """

    image_size: int = 224
    resize: Resize = "exact"
    resize_size: int | None = None
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"data.image_size must be at least 1, got {self.image_size}")
        if self.resized < self.image_size:
            raise ValueError(
                f"data.resize_size must be at least data.image_size={self.image_size}, which is cropped out of it, "
                f"got {self.resized}"
            )

    @property
    def resized(self) -> int:
        """Pixels of the square or of the shorter side before cropping."""
        return self.image_size if self.resize_size is None else self.resize_size

    @cached_property
    def _shrink(self) -> Callable[[Image.Image], Tensor]:
        v2 = torchvision_v2()
        size = [self.resized, self.resized] if self.resize == "exact" else self.resized
        mode = v2.InterpolationMode(self.interpolation)
        return v2.Compose([v2.Resize(size, mode), v2.PILToTensor()])

    def shrink(self, image: Image.Image) -> Tensor:
        """Resizes an RGB image: what can be kept from epoch to epoch.

        Returns:
            (3, H, W) uint8.
        """
        return self._shrink(image)

    @cached_property
    def center_crop(self) -> Callable[[Tensor], Tensor]:
        """Cuts the middle (3, S, S) out of (3, H, W)."""
        return torchvision_v2().CenterCrop(self.image_size)


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images beyond resizing.

    Args:
        train_transform: ``none``: centre crop; ``flip``: that, mirrored half of the time; ``crop_flip``: a random crop,
            mirrored likewise; ``timm``: timm's random resized crop, flip and auto-augmentation or colour jitter, from
            the whole image.
        auto_augment: timm's name of a policy, such as ``rand-m9-mstd0.5-inc1``; only with ``timm``; null: none.
        size: the model's image size, and how images come to it.

    Raises:
        ValueError: fields that do not go together.
    """

    train_transform: TrainTransform
    auto_augment: str | None
    size: ImageSize

    def __post_init__(self) -> None:
        if self.auto_augment is not None and self.train_transform != "timm":
            raise ValueError(
                f"data.auto_augment={self.auto_augment!r} needs data.train_transform timm, got {self.train_transform}"
            )
        size = self.size
        if self.train_transform == "crop_flip" and size.resize == "exact" and size.resized == size.image_size:
            raise ValueError(
                f"data.train_transform crop_flip has nothing to crop: images are resized to exactly "
                f"{size.image_size} x {size.image_size}; set data.resize_size above it, or data.resize to shorter"
            )

    @property
    def wants_whole_image(self) -> bool:
        """Whether it begins with the image itself, so that nothing can be kept from epoch to epoch."""
        return self.train_transform == "timm"

    @cached_property
    def on_pixels(self) -> Callable[[Tensor], Tensor]:
        """From (3, H, W) uint8 to (3, S, S) uint8; draws from the global generators."""
        v2 = torchvision_v2()
        crop = v2.RandomCrop(self.size.image_size) if self.train_transform == "crop_flip" else self.size.center_crop
        return crop if self.train_transform == "none" else v2.Compose([crop, v2.RandomHorizontalFlip()])

    @cached_property
    def on_image(self) -> Callable[[Any], Tensor]:
        """From an RGB image to (3, S, S) uint8; draws from the global generators."""
        from timm.data.transforms_factory import create_transform

        return create_transform(
            (3, self.size.image_size, self.size.image_size),
            is_training=True,
            interpolation=self.size.interpolation,
            auto_augment=self.auto_augment,
            normalize=False,
        )


@contextmanager
def drawn_from(seed: int, epoch: int, row: int) -> Iterator[None]:
    """Seeds all global generators of the CPU by seed, epoch and row, and puts them back afterwards.

    The libraries of transforms draw from Python's, NumPy's and torch's generators. Nothing but the three numbers
    decides, so augmentation is the same with any number of workers and processes, and after a resume.

    Args:
        seed: the data module's.
        epoch: from 0.
        row: of the training split.
    """
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    words = np.random.SeedSequence([seed % 2**63, epoch, row]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))  # not torch.manual_seed: the device's generator stays
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


def torchvision_v2() -> Any:
    """Imports torchvision's transforms, which not every build of torch has a fitting release of.

    Raises:
        ModuleNotFoundError: torchvision is not there or does not fit torch.
    """
    try:
        from torchvision.transforms import v2  # type: ignore[import-untyped]
    except (ImportError, RuntimeError) as error:
        raise ModuleNotFoundError(
            f"images need torchvision in the release that belongs to torch {torch.__version__} ({error}); install it"
        ) from error
    return v2
