"""Rows of several tasks: numbers, hashes, and what is read when."""

import hashlib
import json

import pytest

from wegeft_pl.data.rows import Row
from wegeft_pl.data.text.task_rows import TaskRows, first_of_each

SUITE = ("boolq", "piqa", "openbookqa")


@pytest.fixture
def folder(tmp_path):
    for task in ("piqa", "openbookqa"):
        for split, number in (("train", 2), ("test", 3)):
            rows = [{"instruction": f"{task} {split} {i}", "output": "o", "answer": "a"} for i in range(number)]
            file = tmp_path / task / f"{split}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(rows))
    return tmp_path


def read(folder, **fields):
    chosen = (fields.get(name) for name in ("train_path", "tasks", "train_tasks"))
    return TaskRows(SUITE, "mix", {}, str(folder), *chosen)


def test_numbers_are_of_the_file_and_the_suite(folder):
    found = read(folder).scored("test", whatever_is_there=False)
    assert {number: row["instruction"] for number, row in found} == {
        1: "piqa test 0", 4: "piqa test 1", 7: "piqa test 2", 2: "openbookqa test 0", 5: "openbookqa test 1",
        8: "openbookqa test 2",
    }  # fmt: skip


def test_tasks_that_were_asked_for_must_be_there_unless_told_otherwise(folder):
    rows = read(folder, tasks=["boolq", "piqa"])
    assert len(rows.scored("test", whatever_is_there=True)) == 3
    with pytest.raises(ValueError, match=r"data.tasks: .* has no test rows of boolq"):
        rows.scored("test", whatever_is_there=False)


def test_hashes_are_of_what_was_read(folder):
    rows = read(folder, train_tasks=["piqa"])
    assert [row["instruction"] for row in rows.train()] == ["piqa train 0", "piqa train 1"]
    content = (folder / "piqa/train.json").read_bytes()
    assert rows.sha256 == {"piqa/train": hashlib.sha256(content).hexdigest()}


def test_a_file_beats_the_tasks_own_rows(folder):
    mix = folder / "mix.json"
    mix.write_text(json.dumps([{"instruction": "mixed", "output": "o", "answer": "a"}]))
    assert [(row["instruction"], row["task"]) for row in read(folder).train()] == [("mixed", "mix")]
    other = folder / "piqa/test.json"
    assert {row["task"] for row in read(folder, train_path=str(other)).train()} == {"piqa"}


def test_no_limit_keeps_all():
    rows = [(number, Row({"task": "a"}, "here")) for number in range(3)]
    assert first_of_each(rows, None) == rows
    assert first_of_each(rows, 1) == rows[:1]
