import pytest

from wegeft_pl.data.text.mbpp import mbpp_problem, mbpp_problems
from wegeft_pl.data.text.problems import read_problem_rows
from wegeft_pl.sandbox import Limits, run_trial, run_trials


def row(number=11, **changes):
    return {
        "task_id": number,
        "text": f"Write task {number}.",
        "code": (
            "import math\r\nclass Pair:\r\n    def __init__(self, a): self.a = a\r\n"
            "def area(p): return math.floor(p.a) or '\\w'"
        ),
        "test_list": ["assert area(Pair(1.5)) == 1", "assert math.isclose(area(Pair(2.5)), 2)"],
        "test_setup_code": "",
    } | changes


def test_a_row():
    problem = mbpp_problem(row(), "a.jsonl:1")
    assert problem.names == ("Pair", "area")
    assert problem.name == "area"
    assert problem.setup == "import math"
    assert "\r" not in problem.solution
    assert run_trial(problem.trial(problem.program(problem.solution + "\n\nYou are an expert")), Limits()).passed
    assert run_trial(problem.trial(problem.program(f"Sure:\n```python\n{row()['code']}\n```")), Limits()).passed
    assert not run_trial(problem.trial(problem.program("")), Limits()).passed


def test_the_papers_prompt():
    rows = [(row(number), "") for number in (*range(2, 5), 10, 11, 510, 511)]
    problems = mbpp_problems(rows, num_shots=3)
    assert [one.id for one in problems] == ["MBPP/11", "MBPP/510"]
    prompt = problems[0].prompt
    assert prompt.count("You are an expert Python programmer, and here is your task: ") == 4
    assert prompt.count("[DONE]") == 3
    assert [f"Write task {number}." in prompt for number in (2, 3, 4, 10)] == [True, True, True, False]
    assert prompt.endswith(
        "task: Write task 11. Your code should pass these tests:\n\nassert area(Pair(1.5)) == 1\n"
        "assert math.isclose(area(Pair(2.5)), 2)\n[BEGIN]\n"
    )
    assert mbpp_problems(rows, num_shots=0)[0].prompt.count("[BEGIN]") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_id": "11"}, r"a:1: column 'task_id' must hold a number, got '11'"),
        ({"test_list": "assert"}, r"a:1: column 'test_list' must hold an array of strings, got 'assert'"),
        ({"code": None}, r"a:1: column 'code' must hold a string, got None"),
        ({"code": "def"}, r"a:1: code or tests are no Python \(invalid syntax, line 1\)"),
    ],
)
def test_faulty_rows(changes, message):
    with pytest.raises(ValueError, match=message):
        mbpp_problems([(row(**changes), "a:1")], num_shots=0)


def test_tasks_that_are_missing():
    with pytest.raises(ValueError, match=r"MBPP's examples are its tasks \(2, 3, 4\), and \[3, 4\] are not there"):
        mbpp_problems([(row(2), "")], num_shots=3)
    with pytest.raises(ValueError, match=r"MBPP's test split is its tasks 11 to 510, and none is there"):
        mbpp_problems([(row(2), "")], num_shots=0)


@pytest.mark.slow
def test_gold_solutions_pass_and_empty_ones_fail(shared):
    problems = mbpp_problems(read_problem_rows(str(shared / "data/text/mbpp"))[1], num_shots=3)
    assert len(problems) == 500
    special = [one for one in problems if one.id in ("MBPP/126", "MBPP/367")]
    chosen = problems[::25] + special  # one is called sum; one's tests build a tree of the program's class
    limits = Limits(wall_seconds=60)
    assert all(v.passed for v in run_trials([one.trial(one.program(one.solution)) for one in chosen], limits))
    assert not any(v.passed for v in run_trials([one.trial(one.program("")) for one in chosen], limits))
