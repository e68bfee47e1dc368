"""The arithmetic suite: prompts, scores of each task, formats, and the real files' counts."""

import pytest

from wegeft_pl.data import ArithmeticDataModule
from wegeft_pl.data.rows import Row
from wegeft_pl.data.text import arithmetic

TEST_ROWS = {
    "AQuA": 254, "gsm8k": 1319, "mawps": 238, "SVAMP": 1000, "MultiArith": 600, "AddSub": 395, "SingleEq": 508,
}  # fmt: skip
HELD_OUT = {"AQuA": 51, "gsm8k": 264, "mawps": 107, "SVAMP": 200, "MultiArith": 109, "AddSub": 65, "SingleEq": 83}


def verdicts(task, output, reference):
    rules = ArithmeticDataModule().rules(task)
    answers = {name: rule(output) for name, rule in rules.items()}
    return {name: answer is not None and rules[name].equal(answer, reference) for name, answer in answers.items()}


def row(task, answer, output="", instruction="q"):
    return Row({"instruction": instruction, "output": output, "answer": answer, "task": task}, "here")


def test_numbers_are_equal_within_a_thousandth():
    assert verdicts("SVAMP", "so it is 1,000.0009", "1000") == {"SVAMP": True}
    assert verdicts("SVAMP", "so it is 1,000.002", "1000") == {"SVAMP": False}
    assert verdicts("mawps", "no idea", "3") == {"mawps": False}


def test_gsm8k_has_three_scores():
    assert verdicts("gsm8k", "3 + 4 = 7\n#### 7", "7") == {"gsm8k": True, "gsm8k_strict": True, "gsm8k_flexible": True}
    assert verdicts("gsm8k", "The answer is 7.", "7") == {"gsm8k": True, "gsm8k_strict": False, "gsm8k_flexible": True}
    assert verdicts("gsm8k", "it is 10-7", "7") == {"gsm8k": False, "gsm8k_strict": False, "gsm8k_flexible": True}


def test_aqua_has_the_protocol_s_letter_and_the_one_that_is_meant():
    assert verdicts("AQuA", "Answer: B", "B") == {"AQuA": False, "AQuA_choice": True}
    assert verdicts("AQuA", "so (B)", "B") == {"AQuA": True, "AQuA_choice": True}


def test_math_says_how_boxes_are_compared(monkeypatch):
    rules = ArithmeticDataModule().rules("MATH")
    assert [(name, rule.in_mean) for name, rule in rules.items()] == [("MATH_verify", True), ("MATH_string", False)]
    assert verdicts("MATH", r"\boxed{1/2}", r"\frac12") == {"MATH_verify": True, "MATH_string": True}
    monkeypatch.setattr(arithmetic, "has_math_verify", lambda: False)
    (name,) = rules = ArithmeticDataModule().rules("MATH")
    assert (name, rules[name].in_mean) == ("MATH_string", True)


def test_only_one_score_of_a_task_is_in_the_mean():
    module = ArithmeticDataModule()
    for task in module.suite:
        assert sum(rule.in_mean for rule in module.rules(task).values()) == 1
        assert {rule.task for rule in module.rules(task).values()} == {task}


def test_what_follows_the_next_instruction_does_not_count():
    assert verdicts("SVAMP", "It is 3.\n\n### Instruction:\nWhat is 8?", "3") == {"SVAMP": True}


def test_rows_of_a_mix_are_told_apart_by_their_answer():
    module = ArithmeticDataModule()
    assert module.task_of_row(row("math_10k", "12.0")) == "math_10k"
    assert module.task_of_row(row("math_10k", "C")) == "AQuA"
    assert module.task_of_row(row("math_10k", "x+1", r"\boxed{x+1}")) == "MATH"
    assert module.task_of_row(row("SVAMP", "C")) == "SVAMP"
    odd = module.task_of_row(row("math_10k", "twelve"))
    assert module.reference_of(row(odd, "twelve")) is None
    assert "must be a number, or for AQuA a letter A to E, got 'twelve'" in module.malformed("twelve")


def test_references():
    module = ArithmeticDataModule()
    assert module.reference_of(row("mawps", "15.0")) == "15"
    assert module.reference_of(row("AQuA", "E")) == "E"
    assert module.reference_of(row("AQuA", "F")) is None
    assert module.reference_of(row("AQuA", "AB")) is None
    assert module.reference_of(row("MATH", r"\frac12")) == r"\frac12"


@pytest.mark.parametrize(
    ("task", "answer", "output", "right"),
    [
        ("SVAMP", "8.0", "The answer is 8.", True),
        ("SVAMP", "8.0", "The answer is 32.", False),
        ("mawps", "8", "", False),
        ("AQuA", "A", "Alice pays. The answer is (A).", True),
        ("AQuA", "A", "Alice pays. The answer is (D).", False),
        ("MATH", r"\frac{1}{2}", r"so \boxed{\frac12}", True),
        ("MATH", "2", "so 2", False),
    ],
)
def test_whether_a_worked_answer_is_right(task, answer, output, right):
    assert ArithmeticDataModule().leads_to_answer(row(task, answer, output)) is right


def test_the_prompt_is_alpaca_s_without_input():
    assert ArithmeticDataModule().template.format_prompt("1 + 1?") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n1 + 1?\n\n### Response:\n"
    )


def counts(module):
    found = module._read()
    tasks = [row["task"] for _, row in found["test"]]
    return len(found["train"]), {task: tasks.count(task) for task in dict.fromkeys(tasks)}


def test_the_real_files(shared):
    data = shared / "data/text"
    gsm8k = str(data / "gsm8k/train.jsonl")
    assert counts(ArithmeticDataModule(str(data / "llm_adapters"), gsm8k)) == (7473, TEST_ROWS)
    assert counts(ArithmeticDataModule(str(data / "llm_adapters/clean_heldout"), gsm8k)) == (7473, HELD_OUT)
    assert counts(ArithmeticDataModule(str(data / "math"), gsm8k)) == (7473, {"MATH": 500})
    assert counts(ArithmeticDataModule(str(data / "gsm8k"))) == (7473, {"gsm8k": 1319})
    mawps = str(data / "llm_adapters/dataset/mawps/trainset.json")
    assert counts(ArithmeticDataModule(str(data / "llm_adapters"), mawps))[0] == 1898


def test_the_real_overlap_is_told(shared):
    """MAWPS is a collection: AddSub is part of it."""
    data = shared / "data/text/llm_adapters"
    module = ArithmeticDataModule(
        str(data / "clean_heldout"), str(data / "dataset/mawps/trainset.json"), tasks=["mawps", "AddSub"],
        tokenizer=str(shared / "weights/stories260K"), cache_dir=None,
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"^55 of 172 test rows .* \(mawps 3 of 107, AddSub 52 of 65\)"):
        module.setup("test")
