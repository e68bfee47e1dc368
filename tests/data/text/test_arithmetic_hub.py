"""Hub rows of the arithmetic sets as instructions."""

import json

import pytest

from wegeft_pl.data.text.arithmetic_hub import ARITHMETIC_HUB
from wegeft_pl.metrics import choice_letter, last_number_without_commas, numbers_equal

ROWS = {
    "AQuA": {
        "question": "Find 1023.65 - 1000.",
        "options": ["A)23.65", "B)1000", "C)35.62", "D)2.65", "E) 1023.65"],
        "rationale": "Subtract.\nAnswer:A",
        "correct": "A",
    },
    "mawps": {"question": "How many?", "chain": "<gadget/>", "equation": "x=1+2", "result": "3", "result_float": 3.0},
    "SVAMP": {
        "Body": "Each pack costs 76 dollars",
        "Question": "How much?",
        "Equation": "( 76.0 - 25.0 )",
        "Answer": "51.0",
    },
    "MultiArith": {"question": " How many? ", "final_ans": "9"},
    "gsm8k": {"question": "q", "answer": "so\n#### 1,000"},
    "MATH": {"problem": "p", "solution": r"\boxed{2}", "level": "Level 5", "type": "Algebra"},
}


def convert(task, row):
    return ARITHMETIC_HUB[task]["train"].convert(row, task, "here")


def test_aqua_writes_its_choices_as_the_files_do(shared):
    row = convert("AQuA", ROWS["AQuA"])
    file = shared / "data/text/llm_adapters/dataset/AQuA/test.json"
    expected = json.loads(file.read_text(encoding="utf-8"))[0]["instruction"]
    assert row["instruction"].partition(" Answer Choices: ")[2] == expected.partition(" Answer Choices: ")[2]
    assert (row["answer"], choice_letter(row["output"])) == ("A", "A")


def test_svamp_s_body_is_a_sentence(shared):
    file = shared / "data/text/llm_adapters/dataset/SVAMP"
    ours = {
        convert("SVAMP", {**row, "Question": row["sQuestion"], "Answer": str(row["lSolutions"])})["instruction"]
        for row in json.loads((file / "SVAMP.json").read_text(encoding="utf-8"))
    }
    theirs = {row["instruction"] for row in json.loads((file / "test.json").read_text(encoding="utf-8"))}
    assert len(theirs & ours) >= 0.95 * len(theirs)


@pytest.mark.parametrize("task", ["mawps", "SVAMP", "MultiArith", "gsm8k"])
def test_outputs_lead_to_answers(task):
    row = convert(task, ROWS[task])
    assert row["task"] == task
    assert numbers_equal(last_number_without_commas(row["output"]), row["answer"])


def test_math_takes_the_box():
    assert convert("MATH", ROWS["MATH"])["answer"] == "2"


def test_faulty_rows():
    with pytest.raises(ValueError, match="here: column 'final_ans' must hold str, got int"):
        convert("MultiArith", {"question": "q", "final_ans": 9})
    with pytest.raises(ValueError, match="here: no column 'options'"):
        convert("AQuA", {name: text for name, text in ROWS["AQuA"].items() if name != "options"})
