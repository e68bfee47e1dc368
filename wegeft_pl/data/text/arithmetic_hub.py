"""Arithmetic sets on the hub, each row turned into an instruction, a worked answer and the short one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wegeft_pl.data.rows import Row
from wegeft_pl.data.text.hub_tasks import HubSplit, HubTask, column, hub_task
from wegeft_pl.data.text.instruction_rows import from_gsm8k, from_math, instruction_row

_MATH_SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip


def aqua(row: Mapping[str, Any], task: str, place: str) -> Row:
    """Turns an AQuA row into an instruction with its choices behind it, as LLM-Adapters writes them."""
    question, rationale, correct = (column(row, name, str, place) for name in ("question", "rationale", "correct"))
    choices = " ".join(f"({option[:1]}) {option[2:].strip()}" for option in column(row, "options", list, place))
    output = f"{rationale}\nThe answer is ({correct})."
    return instruction_row(f"{question} Answer Choices: {choices}", output, correct, task, place)


def svamp(row: Mapping[str, Any], task: str, place: str) -> Row:
    """Turns an SVAMP row into an instruction: the body as a sentence of its own, then the question."""
    body, question, equation, answer = (
        column(row, name, str, place) for name in ("Body", "Question", "Equation", "Answer")
    )
    body = body.rstrip()
    body = body if body.endswith((".", "?", "!")) else f"{body}."
    return instruction_row(f"{body} {question}", f"{equation} = {answer}. The answer is {answer}.", answer, task, place)


def mawps(row: Mapping[str, Any], task: str, place: str) -> Row:
    """Turns a row of Calc-MAWPS into an instruction."""
    question, equation, result = (column(row, name, str, place) for name in ("question", "equation", "result"))
    return instruction_row(question, f"{equation}. The answer is {result}.", result, task, place)


def multiarith(row: Mapping[str, Any], task: str, place: str) -> Row:
    """Turns a MultiArith row into an instruction; the set has no worked answers."""
    question, answer = (column(row, name, str, place) for name in ("question", "final_ans"))
    return instruction_row(question, f"The answer is {answer}.", answer, task, place)


#: Task to its data set. MATH's test rows are the 500 that are commonly scored. AddSub and SingleEq have no home on the
#: hub that keeps their 395 and 508 rows.
ARITHMETIC_HUB: dict[str, HubTask] = {
    "AQuA": hub_task("deepmind/aqua_rat", aqua, config="raw"),
    "gsm8k": hub_task("openai/gsm8k", from_gsm8k, config="main"),
    "mawps": hub_task("MU-NLPC/Calc-mawps", mawps, config="default"),
    "SVAMP": hub_task("ChilleD/SVAMP", svamp),
    "MultiArith": hub_task("ChilleD/MultiArith", multiarith),
    "MATH": {
        "train": HubSplit("EleutherAI/hendrycks_math", "train", from_math, _MATH_SUBJECTS),
        "test": HubSplit("HuggingFaceH4/MATH-500", "test", from_math),
    },
}
