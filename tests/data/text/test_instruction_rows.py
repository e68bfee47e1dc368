"""Rows of every format as instructions, and faults named with their place."""

import json

import pytest

from wegeft_pl.data.text.instruction_rows import read_instructions, task_of_format

LLM_ADAPTERS = {"instruction": "1 + 1?", "input": "", "output": "The answer is 2.", "answer": "2"}


@pytest.fixture
def write(tmp_path):
    def write(rows, name="rows.json"):
        file = tmp_path / name
        lines = name.endswith("jsonl")
        file.write_text(
            "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows), encoding="utf-8"
        )
        return file

    return write


@pytest.mark.parametrize(
    ("row", "expected", "task"),
    [
        (LLM_ADAPTERS, ("1 + 1?", "The answer is 2.", "2"), None),
        ({k: v for k, v in LLM_ADAPTERS.items() if k != "input"}, ("1 + 1?", "The answer is 2.", "2"), None),
        ({"question": "q", "answer": "so\n#### 1,000"}, ("q", "so\n#### 1,000", "1000"), "gsm8k"),
        ({"problem": "p", "solution": r"\boxed{\frac12}"}, ("p", r"\boxed{\frac12}", r"\frac12"), "MATH"),
        ({"problem": "p", "solution": "s", "answer": "3"}, ("p", "s", "3"), "MATH"),
        ({"query": "q", "response": "So.\nThe answer is: 1/2"}, ("q", "So.\nThe answer is: 1/2", "1/2"), None),
        ({"original_text": "t", "equation": "x=1+1", "ans": 2.0}, ("t", "x=1+1. The answer is 2.0.", "2.0"), "mawps"),
        ({"original_text": "t", "equation": "x=1+1", "ans": "2"}, ("t", "x=1+1. The answer is 2.", "2"), "mawps"),
    ],
)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_formats(write, row, expected, task, name):
    file = write([row], name)
    (found,) = read_instructions(file, "mine")
    assert (found["instruction"], found["output"], found["answer"]) == expected
    assert found["task"] == "mine"
    assert found.place == (f"{file}:1" if name.endswith("jsonl") else f"{file}: row 1")
    assert task_of_format(file) == task


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"instruction": "i", "output": "o"},
            r"rows.json: row 2: no column 'answer'; this row has: instruction, output",
        ),
        (LLM_ADAPTERS | {"answer": 2}, r"rows.json: row 2: column 'answer' must hold a string, got a number"),
        (
            LLM_ADAPTERS | {"input": "more"},
            r"row 2: column 'input' must be empty, got 'more'; put it into the instruction",
        ),
        ({"query": "q", "response": "two"}, r"row 2: the response must end in 'The answer is: ...', got 'two'"),
        ({"question": "q", "answer": "2"}, r"row 2: the gold answer must end in '#### number', got '2'"),
        ({"problem": "p", "solution": r"\boxed{1"}, r"row 2: the solution must hold a closed \\boxed\{...\}, got"),
        ({"problem": "p"}, r"row 2: no column 'solution'"),
        ({"original_text": "t", "equation": "x", "ans": None}, r"row 2: column 'ans' must hold a string, got null"),
        ({"prompt": "p"}, r"row 2: no column 'instruction'; this row has: prompt"),
        (["a"], r"row 2: a row must be a JSON object like \{'instruction': ...\}, got an array"),
    ],
)
def test_faults_name_file_and_row(write, row, message):
    with pytest.raises(ValueError, match=message):
        read_instructions(write([LLM_ADAPTERS, row]), "mine")
