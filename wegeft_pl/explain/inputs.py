"""What a base asks of its inputs: how pixels are normalised, how large images are, how text becomes tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from wegeft_pl.backbones import huggingface, image_models
from wegeft_pl.explain.images import NORMALIZATIONS
from wegeft_pl.explain.tokens import Tokenizer


def normalization_of(name: str, backbone: str | None) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and standard deviation of a named normalisation.

    Args:
        name: ``"imagenet"``, ``"half"``, ``"none"``, or ``"backbone"`` for what the backbone was pretrained with.
        backbone: the backbone's name, which only ``"backbone"`` asks for.

    Raises:
        ValueError: there is no such normalisation, or nothing is known of the backbone's.
    """
    if name in NORMALIZATIONS:
        return NORMALIZATIONS[name]
    if name != "backbone":
        raise ValueError(f"normalization: {name!r} is not one of {', '.join(NORMALIZATIONS)}, backbone")
    if backbone is None:
        raise ValueError(
            f"normalization: backbone needs a backbone with a name; choose one of {', '.join(NORMALIZATIONS)}"
        )
    return image_models.normalization(backbone)


def image_size_of(model: nn.Module) -> int:
    """The side in pixels of the square images that a model was made for.

    Raises:
        ValueError: it was made for others than squares.
    """
    _, height, width = image_models.input_size(model)
    if height != width:
        raise ValueError(f"cluster maps are drawn of square images, and this model takes {height} x {width}")
    return height


def tokenizer_of(backbone: str) -> Tokenizer:
    """The tokenizer of a Hugging Face backbone.

    Raises:
        ValueError: there is none.
    """
    tokenizer: Any = huggingface.load_tokenizer(backbone)
    return tokenizer
