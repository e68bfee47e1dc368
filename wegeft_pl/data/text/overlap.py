"""Questions that stand in the training rows and again in rows that are scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wegeft_pl.data.rows import Row


def count_overlap(train: Iterable[Row], scored: Sequence[Row]) -> dict[str, int]:
    """Counts scored rows whose question is one of training, apart from white space and case.

    Args:
        train: training rows, with ``instruction``.
        scored: validation or test rows, with ``instruction`` and ``task``.

    Returns:
        Task to number of such rows, tasks without any left out.

    Example:
        >>> train = [Row({"instruction": "What is 1 + 1?"}, "a")]
        >>> count_overlap(train, [Row({"instruction": " what is 1 +  1?", "task": "AddSub"}, "b")])
        {'AddSub': 1}
    """
    known = {_normal(row["instruction"]) for row in train}
    counts: dict[str, int] = {}
    for row in scored:
        if _normal(row["instruction"]) in known:
            counts[row["task"]] = counts.get(row["task"], 0) + 1
    return counts


def overlap_text(counts: dict[str, int], scored: Sequence[Row], split: str) -> str:
    """Words the warning on one line.

    Args:
        counts: :func:`count_overlap`'s result, not empty.
        scored: the same rows.
        split: what they are called.
    """
    totals = {task: sum(row["task"] == task for row in scored) for task in counts}
    tasks = ", ".join(f"{task} {count:,} of {totals[task]:,}" for task, count in counts.items())
    return (
        f"{sum(counts.values()):,} of {len(scored):,} {split} rows have a question that is trained on ({tasks}); "
        "scores on these are no scores on new questions"
    )


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
