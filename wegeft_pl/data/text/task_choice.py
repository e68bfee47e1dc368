"""Which tasks of a suite are trained on and scored: what the user asks for against what the data has."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def check_tasks(name: str, tasks: Sequence[str] | None, suite: Sequence[str]) -> None:
    """Refuses unknown and repeated tasks.

    Args:
        name: the field's name.
        tasks: what the user gave; None passes.
        suite: the tasks that there are.

    Raises:
        ValueError: a task is unknown or there twice, or the list is empty.
    """
    if tasks is None:
        return
    if not tasks:
        raise ValueError(f"data.{name} is empty; name tasks ({', '.join(suite)}), or give null for all")
    for task in tasks:
        if task not in suite:
            lower = {known.lower(): known for known in suite}
            close = get_close_matches(task.lower(), lower, n=1)
            hint = f"did you mean {lower[close[0]]!r}? " if close else ""
            raise ValueError(f"data.{name}: no task {task!r}; {hint}Tasks: {', '.join(suite)}")
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"data.{name} names a task twice: {', '.join(tasks)}")


def choose_scored(asked: Sequence[str] | None, present: Sequence[str], path: str | None) -> list[str]:
    """Chooses the tasks whose test rows are scored.

    Args:
        asked: what the user gave; None: all that are there.
        present: the tasks that have test rows, in the suite's order.
        path: the user's data path; None: the hub.

    Returns:
        The tasks in the suite's order.

    Raises:
        ValueError: a task that was asked for has no test rows.
    """
    return _choose("tasks", asked, present, path, "test")


def choose_trained(asked: Sequence[str] | None, present: Sequence[str], path: str | None) -> list[str]:
    """Chooses the tasks that are trained on; see :func:`choose_scored`.

    Raises:
        ValueError: a task that was asked for has no training rows.
    """
    return _choose("train_tasks", asked, present, path, "training")


def _choose(name: str, asked: Sequence[str] | None, present: Sequence[str], path: str | None, kind: str) -> list[str]:
    if asked is None:
        return list(present)
    lacking = [task for task in asked if task not in present]
    if lacking:
        where = path if path is not None else "the hub"
        raise ValueError(
            f"data.{name}: {where} has no {kind} rows of {', '.join(lacking)}; it has those of "
            f"{', '.join(present) or 'no task'}: drop the missing ones, or give null for all that are there"
        )
    return [task for task in present if task in asked]
