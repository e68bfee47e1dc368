"""Normalisation of pixels as it is saved with an adapter and compared."""

from __future__ import annotations

import json
from types import SimpleNamespace

from wegeft_pl.backbones.pixel_normalization import applied_by, as_saved, other_normalization, saved_in

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_what_is_saved_is_read_again_from_json() -> None:
    assert saved_in(json.loads(json.dumps(as_saved(IMAGENET)))) == IMAGENET
    assert saved_in({"num_classes": 3}) is None


def test_data_says_what_it_does_or_nothing() -> None:
    data = SimpleNamespace(input_normalization=SimpleNamespace(name="half", mean=[0.5] * 3, std=[0.5] * 3))
    assert applied_by(data) == HALF
    assert applied_by(object()) is None


def test_only_another_normalisation_is_told_of() -> None:
    rounded = tuple(tuple(value + 1e-8 for value in values) for values in HALF)
    assert other_normalization(HALF, rounded) is None  # type: ignore[arg-type]
    text = other_normalization(HALF, IMAGENET)
    assert text is not None
    assert (
        "with mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225, and the adapter was trained with mean 0.5" in text
    )
