"""Labels of a table: classes or numbers, checked row by row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from wegeft_pl.data.delimited import TableRow

Kind = Literal["classification", "regression"]


def text_of(row: TableRow, column: str, may_be_empty: bool = False) -> str:
    """Returns a row's text.

    Args:
        row: of a table.
        column: the text's.
        may_be_empty: whether blanks alone, or nothing at all, are a text.

    Raises:
        ValueError: it is missing, no text, or empty where it may not be.
    """
    value = row[column]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"{row.place}: the text in column {column!r} is missing; fill it in or remove the row")
    if not isinstance(value, str):
        raise ValueError(f"{row.place}: column {column!r} must hold text, got {value!r:.40}; see data.text_column")
    if not may_be_empty and not value.strip():
        raise ValueError(f"{row.place}: the text in column {column!r} is empty; fill it in or remove the row")
    return value


def label_of(row: TableRow, column: str) -> str:
    """Returns a row's label as a class name: text as it stands, whole numbers without a decimal point.

    Raises:
        ValueError: it is missing or NaN, or neither a text nor a number.

    Example:
        >>> label_of(TableRow({"label": 1.0}, "train.jsonl:3"), "label")
        '1'
    """
    value = row[column]
    if _is_missing(value):
        raise ValueError(f"{row.place}: the label in column {column!r} is missing; fill it in or remove the row")
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | int | float):
        return str(value)
    raise ValueError(f"{row.place}: a label must be a text or a number, got {value!r:.40}; see data.label_column")


def number_of(row: TableRow, column: str) -> float:
    """Returns a row's label as a number.

    Raises:
        ValueError: it is missing, no number, or not finite.
    """
    label = label_of(row, column)
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{row.place}: data.task regression needs a finite number as label, got {label!r}")
    return number


def kind_of(labels: Sequence[str]) -> Kind:
    """Tells regression from classification: all labels are numbers, and one of them is not whole.

    Example:
        >>> kind_of(["3.8", "5.0"]), kind_of(["1", "0"]), kind_of(["1.5", "good"])
        ('regression', 'classification', 'classification')
    """
    numbers = [_number(label) for label in labels]
    if None in numbers:
        return "classification"
    return "classification" if all(number.is_integer() for number in numbers if number is not None) else "regression"


def class_list(labels: Sequence[str], name: str) -> list[str]:
    """The classes, each once: by value where all are numbers, by letters otherwise.

    Args:
        labels: of the training rows.
        name: what messages call the data.

    Raises:
        ValueError: there is only one class.

    Example:
        >>> class_list(["10", "9", "10"], "x"), class_list(["pos", "neg"], "x")
        (['9', '10'], ['neg', 'pos'])
    """
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise ValueError(f"{name}: all training rows have the label {classes[0]!r}; two classes are the least")
    if all(_number(label) is not None for label in classes):
        return sorted(classes, key=lambda label: (float(label), label))
    return classes


def class_index(row: TableRow, column: str, classes: Sequence[str]) -> int:
    """The number of a row's class.

    Raises:
        ValueError: no training row has this label.
    """
    label = label_of(row, column)
    if label not in classes:
        shown = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
        raise ValueError(f"{row.place}: the label {label!r} is in no training row; train has {shown}")
    return classes.index(label)


def counts_text(labels: Sequence[str], classes: Sequence[str]) -> str:
    """Says how many rows each class has, and how uneven they are.

    Example:
        >>> counts_text(["a", "b", "a", "a"], ["a", "b"])
        'a: 3, b: 1 (largest class 75.0 %)'
    """
    counts = Counter(labels)
    named = [f"{name}: {counts[name]:,}" for name in classes]
    if len(named) > 12:
        named = [
            *named[:12],
            f"and {len(classes) - 12} classes more, {min(counts[name] for name in classes):,} at least",
        ]
    return f"{', '.join(named)} (largest class {100 * max(counts.values()) / len(labels):.1f} %)"


def _number(label: str) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _is_missing(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan")  # as some libraries write a number that is not there
    return value is None or (isinstance(value, float) and math.isnan(value))
