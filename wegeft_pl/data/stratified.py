"""Rows held out of training so that every class keeps its share."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence


def stratified_parts(labels: Sequence[str], sizes: Sequence[int], seed: int) -> list[list[int]]:
    """Draws disjoint parts of the rows, in each of which the classes have the share that they have in all rows.

    Every class keeps at least one row outside the parts, so that training knows it.

    Args:
        labels: the class of every row; the same for all where there are no classes.
        sizes: how many rows each part shall have; the draw of a part does not depend on those behind it.
        seed: seed of the draw.

    Returns:
        For each size, the row numbers in ascending order.

    Raises:
        ValueError: the parts together would take the last row of a class.

    Example:
        >>> labels = ["a", "b", "a", "a", "b", "a"]
        >>> [sorted(labels[row] for row in part) for part in stratified_parts(labels, [3], seed=0)]
        [['a', 'a', 'b']]
    """
    rng = random.Random(seed)
    rows: dict[str, list[int]] = {label: [] for label in sorted(set(labels))}
    for row, label in enumerate(labels):
        rows[label].append(row)
    counts = {label: len(members) for label, members in rows.items()}
    for members in rows.values():
        rng.shuffle(members)
    most = len(labels) - len(rows)
    if sum(sizes) > most:
        raise ValueError(
            f"at most {most} of {len(labels)} rows can be held out, so that each of {len(rows)} classes keeps one"
        )
    parts = []
    for size in sizes:
        quotas = _quotas(size, counts, {label: len(members) - 1 for label, members in rows.items()})
        part = []
        for label, quota in quotas.items():
            part += rows[label][:quota]
            rows[label] = rows[label][quota:]
        parts.append(sorted(part))
    return parts


def _quotas(size: int, counts: Mapping[str, int], room: Mapping[str, int]) -> dict[str, int]:
    """Shares ``size`` out in proportion to ``counts``, at most ``room`` to each: what is left goes where most lacks."""
    total = sum(counts.values())
    wanted = {label: size * count / total for label, count in counts.items()}
    given = {label: min(int(wanted[label]), room[label]) for label in counts}
    for _ in range(size - sum(given.values())):
        open_to_more = [label for label in counts if given[label] < room[label]]
        most_lacking = max(open_to_more, key=lambda label: wanted[label] - given[label])
        given[most_lacking] += 1
    return given
