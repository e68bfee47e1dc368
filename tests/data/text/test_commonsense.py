"""The commonsense suite: prompts, targets, scores, and the real files' counts."""

import pytest

from wegeft_pl.data import CommonsenseDataModule
from wegeft_pl.data.rows import Row
from wegeft_pl.data.text.commonsense import choices_of

TEST_ROWS = {
    "boolq": 3270, "piqa": 1838, "social_i_qa": 1954, "winogrande": 1267, "ARC-Easy": 2376, "ARC-Challenge": 1172,
    "openbookqa": 500,
}  # fmt: skip
TRAIN_ROWS = {"boolq": 9427, "ARC-Easy": 2251, "ARC-Challenge": 1119, "openbookqa": 4957}


@pytest.mark.parametrize(
    ("output", "exact", "first"),
    [
        ("the correct answer is true", True, True),
        ("the correct answer is false\n\nthe correct answer is true", True, False),
        ("the correct answer is true, I think", False, True),
        ("true", False, True),
        ("the correct answer is True", False, False),
        ("", False, False),
    ],
)
def test_scores(output, exact, first):
    for match, expected in (("exact", exact), ("first", first)):
        (rule,) = CommonsenseDataModule(answer_match=match).rules("boolq").values()
        answer = rule(output)
        assert (answer is not None and rule.equal(answer, "true")) is expected
        assert (rule.task, rule.in_mean) == ("boolq", True)


def test_first_reads_the_task_s_own_choices():
    (rule,) = CommonsenseDataModule(answer_match="first").rules("winogrande").values()
    assert rule("answer1 or option2") == "option2"
    with pytest.raises(ValueError, match=r"data.answer_match must be 'exact' or 'first', got 'last'"):
        CommonsenseDataModule(answer_match="last")


def test_references_are_choices_of_the_task():
    module = CommonsenseDataModule()

    def reference(task, answer):
        return module.reference_of(Row({"task": task, "answer": answer}, "here"))

    assert reference("boolq", "true") == "true"
    assert reference("boolq", "answer1") is None
    assert reference("ARC-Easy", "answer5") == "answer5"
    assert reference("commonsense_170k", "ending4") == "ending4"
    assert reference("commonsense_170k", "Ending4") is None
    assert len(choices_of("hellaswag")) == 4


def test_the_target_is_the_paper_s_whatever_the_file_has():
    row = Row({"instruction": "q", "output": "It is true", "answer": "true", "task": "boolq"}, "here")
    module = CommonsenseDataModule()
    assert module.response_of(row) == "the correct answer is true"
    assert module.template.format_prompt("q") == "q\n"
    assert not module.leads_to_answer(row)


@pytest.mark.slow
def test_the_real_files(shared):
    data, tokenizer = shared / "data/text/llm_adapters", str(shared / "weights/stories260K")
    module = CommonsenseDataModule(str(data), tokenizer=tokenizer, max_length=256, cache_dir=None, limit_train=50)
    module.setup("test")
    described = module.describe()
    assert described["tasks"] == {"train": dict.fromkeys(TRAIN_ROWS, 50), "val": {}, "test": TEST_ROWS}
    assert described["not_scored"] == {"test": ["hellaswag"]}
    assert described["wrong_outputs"] == {"test": 0}
    assert described["rows"] == {"test": sum(TEST_ROWS.values())}


def test_the_real_training_rows(shared):
    module = CommonsenseDataModule(str(shared / "data/text/llm_adapters/dataset"), val_size=120)
    rows = module._read()
    train = [row["task"] for _, row in rows["train"] + rows["val"]]
    assert {task: train.count(task) for task in dict.fromkeys(train)} == TRAIN_ROWS
    assert len(rows["val"]) == 120
    numbers = [number for number, _ in rows["test"]]
    assert len(set(numbers)) == len(numbers) == sum(TEST_ROWS.values())
