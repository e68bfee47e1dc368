"""What is subtracted from pixels and what they are divided by, under the name that is told with every score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

NormalizationName = Literal["imagenet", "half", "none", "backbone"]


@dataclass(frozen=True)
class Normalization:
    """Turns pixels in 0..1 into ``(pixel - mean) / std``, channel by channel.

    Args:
        name: imagenet, half, none, or backbone (as the backbone was pretrained).
        mean: of red, green and blue, in 0..1.
        std: likewise, above 0.

    Raises:
        ValueError: there are not three channels, or a standard deviation is not above 0.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"the input normalization needs a mean and a std above 0 for each of 3 channels, got mean {self.mean} "
                f"and std {self.std}; set data.normalization to imagenet, half or none"
            )

    def __str__(self) -> str:
        numbers = [", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std)]
        return f"{self.name} (mean {numbers[0]}; std {numbers[1]})"


#: The normalizations that do not depend on a backbone.
NAMED = {
    "imagenet": Normalization("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Normalization("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": Normalization("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@runtime_checkable
class HasInputNormalization(Protocol):
    """A task that knows how its backbone's inputs were normalized in pretraining."""

    def input_normalization(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation (3 channels each, in 0..1); asked for whether or not the backbone is built."""
        ...


def normalization_of(name: NormalizationName, task: object) -> Normalization:
    """Looks a normalization up, or asks the task's backbone for its own.

    Args:
        name: as the user gave it.
        task: the task of the trainer, or None where there is no trainer.

    Raises:
        ValueError: the backbone's own is wanted, and there is no task or it does not say.

    Example:
        >>> str(normalization_of("half", None))
        'half (mean 0.5, 0.5, 0.5; std 0.5, 0.5, 0.5)'
    """
    if name != "backbone":
        return NAMED[name]
    if not isinstance(task, HasInputNormalization):
        whose = "there is no task" if task is None else f"{type(task).__name__} has no input_normalization()"
        raise ValueError(
            f"data.normalization backbone asks the task's backbone, and {whose}; set it to imagenet, half or none"
        )
    mean, std = task.input_normalization()
    return Normalization("backbone", tuple(mean), tuple(std))
