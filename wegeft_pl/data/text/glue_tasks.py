"""What the GLUE tasks look like on the hub and in their original files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wegeft_pl.data.sources import Split

_SPLITS: dict[Split, str] = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Args:
        hub_config: the configuration on the hub.
        hub_texts: the columns there that hold one text or two.
        classes: the classes in the order of their numbers, as the hub has them; none where a number is predicted.
        folders: what the task's folder may be called.
        texts: the texts' columns in the original .tsv files.
        label: the label's column there.
        numbers: columns of text and label where such a file has no header; None where it always has one.
        hub_splits: the hub's names of the splits.
    """

    hub_config: str
    hub_texts: tuple[str, ...]
    classes: tuple[str, ...]
    folders: tuple[str, ...]
    texts: tuple[str, ...]
    label: str = "label"
    numbers: tuple[str, str] | None = None
    hub_splits: Mapping[Split, str] = field(default_factory=lambda: _SPLITS)

    def columns_in(self, first: Sequence[str], name: str) -> tuple[tuple[str, ...], str | None]:
        """Finds out which columns of a .tsv file hold texts and label.

        Args:
            first: the first line's cells.
            name: what messages call the file.

        Returns:
            The texts' columns, and the label's; None where the file has no labels, as GLUE's test files.

        Raises:
            ValueError: the first line has neither these names, nor can be data.
        """
        for texts, label in ((self.texts, self.label), (self.hub_texts, "label")):
            if set(texts) <= set(first):
                return texts, label if label in first else None
        if self.numbers is not None:
            text, label = self.numbers
            if len(first) > max(int(text), int(label)) and self.is_label(first[int(label)]):
                return (text,), label
        shown = ", ".join(repr(cell[:24]) for cell in first[:8])
        raise ValueError(f"{name}:1: expected the columns {', '.join(self.texts)} and {self.label}, got {shown}")

    def is_label(self, value: object) -> bool:
        """Whether a value is a class of the task, by name or number."""
        return str(value) in self.classes or str(value) in map(str, range(len(self.classes)))

    def class_of(self, value: object, place: str) -> object:
        """Names the class of a label as the hub's files and the original ones write it.

        Args:
            value: a class's name or number, or a number to predict.
            place: where the row stands.

        Returns:
            The class's name, or the number as it is; None for -1, which stands for a label that is not public.

        Raises:
            ValueError: the task has no such class.
        """
        if str(value) in ("-1", "-1.0"):
            return None
        if not self.classes or str(value) in self.classes:
            return value
        if not self.is_label(value):
            raise ValueError(f"{place}: the label {value!r} is none of {', '.join(self.classes)}, nor their number")
        return self.classes[int(str(value))]


_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = ("entailment", "neutral", "contradiction")
_PAIR = ("sentence1", "sentence2")


def _mnli(kind: str) -> GlueTask:
    splits: dict[Split, str] = {"train": "train", "val": f"validation_{kind}", "test": f"test_{kind}"}
    return GlueTask("mnli", ("premise", "hypothesis"), _MNLI, ("MNLI", "mnli"), _PAIR, "gold_label", hub_splits=splits)


#: All tasks by the hub's names, the diagnostic set left out: it has neither training rows nor public labels.
TASKS: dict[str, GlueTask] = {
    "cola": GlueTask(
        "cola", ("sentence",), ("unacceptable", "acceptable"),
        ("CoLA", "cola", "cola_public/raw", "acceptability_corpus/cola_public/raw"), ("sentence",), numbers=("3", "1"),
    ),
    "mnli": _mnli("matched"),
    "mnli_mismatched": _mnli("mismatched"),
    "mrpc": GlueTask(
        "mrpc", _PAIR, ("not_equivalent", "equivalent"), ("MRPC", "mrpc"), ("#1 String", "#2 String"), "Quality"
    ),
    "qnli": GlueTask("qnli", ("question", "sentence"), _ENTAILMENT, ("QNLI", "qnli"), ("question", "sentence")),
    "qqp": GlueTask(
        "qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("QQP", "qqp"), ("question1", "question2"),
        "is_duplicate",
    ),
    "rte": GlueTask("rte", _PAIR, _ENTAILMENT, ("RTE", "rte"), _PAIR),
    "sst2": GlueTask(
        "sst2", ("sentence",), ("negative", "positive"), ("SST-2", "SST2", "sst2"), ("sentence",), numbers=("0", "1")
    ),
    "stsb": GlueTask("stsb", _PAIR, (), ("STS-B", "stsb"), _PAIR, "score"),
    "wnli": GlueTask("wnli", _PAIR, ("not_entailment", "entailment"), ("WNLI", "wnli"), _PAIR),
}  # fmt: skip
