"""Rows held out of the training split."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from wegeft_pl.data.rows import Row
from wegeft_pl.data.text.sources import Split
from wegeft_pl.data.text.stream import Streamed

#: Rows with their numbers in the file they come from.
NumberedRows = Sequence[tuple[int, Row]]


def hold_out(
    found: Mapping[Split, NumberedRows], val_size: int, test_size: int, seed: int, name: str
) -> dict[Split, NumberedRows]:
    """Moves rows drawn at random from train to val and test; all splits keep the file's order.

    Args:
        found: the rows of each split that the data itself has, train at least.
        val_size: rows to hold out for validation.
        test_size: rows to hold out for test; which ones does not depend on ``val_size``.
        seed: seed of the draw.
        name: what the messages call the data.

    Returns:
        The rows of train, val and test, without overlap; a split may be empty, train never is.

    Raises:
        ValueError: the data has a split of its own that is to be held out, or no training row would be left.
    """
    sizes: dict[Split, int] = {"val": val_size, "test": test_size}
    for split, size in sizes.items():
        if size and found.get(split):
            raise ValueError(
                f"data.{split}_size={size} holds rows out of train, but {name} has {split} rows of its own; "
                f"set data.{split}_size to 0"
            )
    train = found["train"]
    if val_size + test_size >= len(train):
        raise ValueError(
            f"data.val_size={val_size} and data.test_size={test_size} leave no training row of {len(train)}; lower them"
        )
    # A whole permutation: random.sample() of fewer rows is not the beginning of a sample of more.
    drawn = random.Random(seed).sample(range(len(train)), len(train))
    test, val = set(drawn[:test_size]), set(drawn[test_size : test_size + val_size])
    held_out = test | val
    return {
        "train": _pick(train, [position for position in range(len(train)) if position not in held_out]),
        "val": _pick(train, sorted(val)) if val else found.get("val", []),
        "test": _pick(train, sorted(test)) if test else found.get("test", []),
    }


def _pick(rows: NumberedRows, positions: list[int]) -> NumberedRows:
    return rows.pick(positions) if isinstance(rows, Streamed) else [rows[position] for position in positions]
