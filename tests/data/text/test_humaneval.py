import gzip
import json

import pytest

from wegeft_pl.data.text.humaneval import humaneval_problem, humaneval_problems
from wegeft_pl.data.text.problems import read_problem_rows
from wegeft_pl.sandbox import Limits, run_trial, run_trials

ROW = {
    "task_id": "HumanEval/x",
    "prompt": 'import math\n\ndef root(x):\n    return math.sqrt(x)\n\ndef twice(x):\n    """Twice."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert root(candidate(8)) == 4\n",
}


def test_a_row():
    problem = humaneval_problem(ROW, "a.jsonl:1")
    assert problem.prompt == ROW["prompt"]
    assert problem.setup == "import math\n\ndef root(x):\n    return math.sqrt(x)\n\n"
    assert problem.instruction.endswith('"""Twice."""\n```')
    for output, passes in ((problem.solution, True), ("", False), ("    return x + 2\n", False)):
        assert run_trial(problem.trial(problem.program(output)), Limits()).passed is passes


def test_a_faulty_row():
    with pytest.raises(
        ValueError, match=r"a.jsonl:1: no column 'entry_point', there are: prompt; is it the file of data.benchm"
    ):
        humaneval_problem({"prompt": ""}, "a.jsonl:1")
    with pytest.raises(ValueError, match=r"a.jsonl:1: column 'entry_point' must hold a string, got None"):
        humaneval_problem({"prompt": "", "entry_point": None}, "a.jsonl:1")
    with pytest.raises(ValueError, match=r"a.jsonl:1: column 'prompt' must hold a string, the row is 3"):
        humaneval_problem(3, "a.jsonl:1")


def test_files(tmp_path):
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"a": 1}\n\n{"a": 2}\n'))
    assert read_problem_rows(str(tmp_path)) == (packed, [({"a": 1}, f"{packed}:1"), ({"a": 2}, f"{packed}:3")])
    (tmp_path / "b.json").write_text('[{"a": 3}]')
    assert read_problem_rows(str(tmp_path / "b.json"))[1][0][0] == {"a": 3}
    with pytest.raises(ValueError, match=r"must hold one .jsonl, .jsonl.gz or .json file, has a.jsonl.gz, b.json"):
        read_problem_rows(str(tmp_path))
    packed.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"a.jsonl.gz: not a whole gzip file"):
        read_problem_rows(str(packed))
    with pytest.raises(FileNotFoundError, match=r"^data.benchmark_path: no file or folder .*nowhere"):
        read_problem_rows(str(tmp_path / "nowhere"))
    packed.write_bytes(gzip.compress(b'{"a": 1}\n{"a":'))
    with pytest.raises(ValueError, match=r"a.jsonl.gz:2: not valid JSON"):
        read_problem_rows(str(packed))


@pytest.mark.slow
def test_gold_solutions_pass_and_empty_ones_fail(shared):
    problems = humaneval_problems(read_problem_rows(str(shared / "data/text/humaneval"))[1], 0)
    assert len(problems) == 164
    # Those whose tests need a helper of the prompt or call the function by name among them.
    chosen = [problems[number] for number in (*range(0, 164, 12), 32, 33, 38, 50)]
    limits = Limits(wall_seconds=60)
    assert all(v.passed for v in run_trials([one.trial(one.program(one.solution)) for one in chosen], limits))
    assert not any(v.passed for v in run_trials([one.trial(one.program("")) for one in chosen], limits))


@pytest.mark.slow
def test_the_file_as_it_stands(shared):
    with gzip.open(shared / "data/text/humaneval/HumanEval.jsonl.gz") as lines:
        rows = [json.loads(line) for line in lines]
    problems = humaneval_problems(read_problem_rows(str(shared / "data/text/humaneval"))[1], 0)
    assert [one.prompt + one.solution for one in problems] == [
        row["prompt"] + row["canonical_solution"] for row in rows
    ]
