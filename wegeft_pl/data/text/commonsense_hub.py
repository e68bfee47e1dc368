"""The eight commonsense sets on the hub, each row turned into the instruction that LLM-Adapters has for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wegeft_pl.data.rows import Row
from wegeft_pl.data.text.hub_tasks import HubSplit, HubTask, column, hub_task, pick
from wegeft_pl.data.text.instruction_rows import instruction_row
from wegeft_pl.metrics.choices import MARKER

_PARQUET = "refs/convert/parquet"
_WINOGRANDE_SIZES = tuple(f"winogrande_{size}" for size in ("xs", "s", "m", "l", "xl", "debiased"))


def boolq(row: Mapping[str, Any], task: str, place: str) -> Row:
    """Turns a BoolQ row into an instruction; its passage is left out, as in LLM-Adapters."""
    question = column(row, "question", str, place)
    answer = "true" if column(row, "answer", bool, place) else "false"
    text = f"Please answer the following question with true or false, question: {question}?"
    return _row(f"{text}\n\nAnswer format: true/false", answer, task, place)


def piqa(row: Mapping[str, Any], task: str, place: str) -> Row:
    """Turns a PIQA row into an instruction; its label counts from 0."""
    goal, one, two = (column(row, name, str, place) for name in ("goal", "sol1", "sol2"))
    number = pick(column(row, "label", int, place) + 1, 2, place)
    text = f"Please choose the correct solution to the question: {goal}\n\nSolution1: {one}\n\nSolution2: {two}"
    return _row(f"{text}\n\n{_format('solution', 2)}", f"solution{number}", task, place)


def social_i_qa(row: Mapping[str, Any], task: str, place: str) -> Row:
    """Turns a SIQA row into an instruction; its label is a text that counts from 1."""
    context, question = (column(row, name, str, place) for name in ("context", "question"))
    choices = [column(row, name, str, place) for name in ("answerA", "answerB", "answerC")]
    number = pick(_number(column(row, "label", str, place), place), 3, place)
    return _question(f"{context} {question}", choices, number, task, place)


def hellaswag(row: Mapping[str, Any], task: str, place: str) -> Row:
    """Turns a HellaSwag row into an instruction; its label is a text that counts from 0."""
    activity, first, second = (column(row, name, str, place) for name in ("activity_label", "ctx_a", "ctx_b"))
    endings = column(row, "endings", list, place)
    number = pick(_number(column(row, "label", str, place), place) + 1, len(endings), place)
    context = f"{first} {second.capitalize()}" if second else first
    text = f"Please choose the correct ending to complete the given sentence: {activity}: {context}"
    body = f"{text}\n\n{_numbered('Ending', endings)}\n\n{_format('ending', len(endings))}"
    return _row(body, f"ending{number}", task, place)


def winogrande(row: Mapping[str, Any], task: str, place: str) -> Row:
    """Turns a WinoGrande row into an instruction; its answer is a text that counts from 1."""
    sentence, one, two = (column(row, name, str, place) for name in ("sentence", "option1", "option2"))
    number = pick(_number(column(row, "answer", str, place), place), 2, place)
    text = "Please choose the correct answer to fill in the blank to complete the given sentence:"
    body = f"{text} {sentence}\n\n{_numbered('Option', [one, two])} {_format('option', 2)}"
    return _row(body, f"option{number}", task, place)


def arc(row: Mapping[str, Any], task: str, place: str) -> Row:
    """Turns a row of ARC, or of OpenBookQA, into an instruction; its answer is one of the choices' labels."""
    name = "question" if "question" in row else "question_stem"
    question, key = column(row, name, str, place), column(row, "answerKey", str, place)
    choices = column(row, "choices", dict, place)
    texts, labels = (column(choices, part, list, place) for part in ("text", "label"))
    number = pick(labels.index(key) + 1 if key in labels else 0, len(texts), place)
    return _question(question, texts, number, task, place)


#: Task to its data set. WinoGrande's training rows are those of all its sizes, one behind the other, because that is
#: what Commonsense170k holds: 63,238 of its 170,420 rows, and with them the eight sets add up to it exactly.
COMMONSENSE_HUB: dict[str, HubTask] = {
    "boolq": hub_task("google/boolq", boolq, "validation"),
    "piqa": hub_task("ybisk/piqa", piqa, "validation", revision=_PARQUET),
    "social_i_qa": hub_task("allenai/social_i_qa", social_i_qa, "validation", revision=_PARQUET),
    "hellaswag": hub_task("Rowan/hellaswag", hellaswag, "validation"),
    "winogrande": {
        "train": HubSplit("allenai/winogrande", "train", winogrande, _WINOGRANDE_SIZES),
        "test": HubSplit("allenai/winogrande", "validation", winogrande, ("winogrande_xl",)),
    },
    "ARC-Easy": hub_task("allenai/ai2_arc", arc, config="ARC-Easy"),
    "ARC-Challenge": hub_task("allenai/ai2_arc", arc, config="ARC-Challenge"),
    "openbookqa": hub_task("allenai/openbookqa", arc, config="main"),
}


def _question(question: str, choices: Sequence[str], number: int, task: str, place: str) -> Row:
    text = f"Please choose the correct answer to the question: {question}"
    body = f"{text}\n\n{_numbered('Answer', choices)}\n\n{_format('answer', len(choices))}"
    return _row(body, f"answer{number}", task, place)


def _numbered(name: str, choices: Sequence[str]) -> str:
    return " ".join(f"{name}{number}: {choice}" for number, choice in enumerate(choices, 1))


def _format(name: str, count: int) -> str:
    return "Answer format: " + "/".join(f"{name}{number}" for number in range(1, count + 1))


def _number(label: str, place: str) -> int:
    if not label.isdecimal():
        raise ValueError(f"{place}: the label must be a number, got {label!r}; this split may have no public answers")
    return int(label)


def _row(instruction: str, answer: str, task: str, place: str) -> Row:
    return instruction_row(instruction, f"{MARKER} {answer}", answer, task, place)
