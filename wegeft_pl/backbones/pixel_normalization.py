"""How pixels were normalised in training: kept with the adapter, and compared where it is scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

#: Mean and standard deviation by channel, of pixels in 0..1.
Normalization = tuple[tuple[float, ...], tuple[float, ...]]
#: Their place in what is saved with an adapter.
NORMALIZATION = "normalization"


class AppliedNormalization(Protocol):
    """What is done to pixels in 0..1, by channel."""

    @property
    def mean(self) -> Sequence[float]:
        """What is subtracted."""
        ...

    @property
    def std(self) -> Sequence[float]:
        """What the rest is divided by."""
        ...


@runtime_checkable
class NormalizesPixels(Protocol):
    """A data module that says what it does to pixels."""

    @property
    def input_normalization(self) -> AppliedNormalization:
        """Mean and standard deviation by channel."""
        ...


def applied_by(datamodule: object) -> Normalization | None:
    """What a data module normalises pixels with; None where it does not say."""
    if not isinstance(datamodule, NormalizesPixels):
        return None
    found = datamodule.input_normalization
    return tuple(found.mean), tuple(found.std)


def saved_in(about: Mapping[str, Any]) -> Normalization | None:
    """What an adapter was trained with; None for one that was saved without it.

    Args:
        about: what its task said of it.

    Example:
        >>> saved_in({"normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}})
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    saved = about.get(NORMALIZATION)
    return None if saved is None else (tuple(saved["mean"]), tuple(saved["std"]))


def as_saved(normalization: Normalization) -> dict[str, Any]:
    """What :func:`saved_in` reads, in plain JSON types."""
    mean, std = normalization
    return {NORMALIZATION: {"mean": list(mean), "std": list(std)}}


def other_normalization(trained: Normalization, applied: Normalization) -> str | None:
    """Words the warning where pixels are normalised in another way than in training; None where they are not."""
    pairs = zip([*trained[0], *trained[1]], [*applied[0], *applied[1]], strict=True)
    if all(math.isclose(was, now, abs_tol=1e-6) for was, now in pairs):
        return None
    return (
        f"the data normalises pixels with {_words(applied)}, and the adapter was trained with {_words(trained)}, which "
        "moves scores by points; set data.normalization as it was in training"
    )


def _words(normalization: Normalization) -> str:
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in normalization)
    return f"mean {mean} and std {std}"
