"""The classes of a data set, in the order of their numbers, and rows taken evenly from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from wegeft_pl.data.vision.stored import ImageRow


@dataclass(frozen=True)
class Classes:
    """What the data calls each class, and what people call it.

    Args:
        labels: as rows name the classes, in the order of the classes' numbers.
        names: for people, in the same order.
        way_out: what a message advises about a row of another class.

    Raises:
        ValueError: there are fewer than two, a label is there twice, or names and labels differ in number.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    way_out: str = "correct the row, or the training rows"

    def __post_init__(self) -> None:
        twice = [label for label, count in Counter(self.labels).items() if count > 1]
        if twice:
            raise ValueError(f"the class {twice[0]!r} is in the list of classes twice; see data.classes")
        if len(self.labels) < 2:
            raise ValueError(f"two classes are the least, got {', '.join(map(repr, self.labels)) or 'none'}")
        if len(self.names) != len(self.labels):
            raise ValueError(f"there are {len(self.names)} names for {len(self.labels)} classes; see data.classes")

    def number_of(self, row: ImageRow) -> int:
        """Looks up the number of a row's class.

        Raises:
            ValueError: the class is not in the list.
        """
        if row.label not in self._numbers:
            shown = ", ".join(self.labels[:8]) + (", ..." if len(self.labels) > 8 else "")
            raise ValueError(
                f"{row.place}: the class {row.label!r} is not among the {len(self.labels)} classes of the training "
                f"rows ({shown}); {self.way_out}"
            )
        return self._numbers[row.label]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.labels)}


def taken_in_turn(labels: Sequence[int], limit: int | None) -> list[int]:
    """Takes the first rows of every class, one class after the other, until there are enough.

    Args:
        labels: number of the class of each row.
        limit: how many rows; None: all.

    Returns:
        Row numbers, ascending.

    Example:
        >>> taken_in_turn([0, 0, 0, 1, 1, 2], 4)
        [0, 1, 3, 5]
    """
    seen: Counter[int] = Counter()
    turns = []
    for row, label in enumerate(labels):
        turns.append((seen[label], row))
        seen[label] += 1
    return sorted(row for _, row in sorted(turns)[:limit])
