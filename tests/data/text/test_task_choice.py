"""What is asked for against what is there."""

import pytest

from wegeft_pl.data.text.task_choice import check_tasks, choose_scored, choose_trained

SUITE = ("boolq", "ARC-Easy", "ARC-Challenge")


def test_null_takes_what_is_there():
    check_tasks("tasks", None, SUITE)
    assert choose_scored(None, ["boolq"], "here") == ["boolq"]
    assert choose_trained(None, [], None) == []


def test_tasks_come_in_the_suite_s_order():
    check_tasks("tasks", ["ARC-Easy", "boolq"], SUITE)
    assert choose_scored(["ARC-Easy", "boolq"], ["boolq", "ARC-Easy"], "here") == ["boolq", "ARC-Easy"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["bolq"], r"data.tasks: no task 'bolq'; did you mean 'boolq'\? Tasks: boolq, ARC-Easy, ARC-Challenge"),
        (["arc-easy"], r"no task 'arc-easy'; did you mean 'ARC-Easy'\?"),
        (["xxxx"], r"data.tasks: no task 'xxxx'; Tasks: boolq"),
        (["boolq", "boolq"], r"data.tasks names a task twice: boolq, boolq"),
        ([], r"data.tasks is empty; name tasks \(boolq, ARC-Easy, ARC-Challenge\), or give null for all"),
    ],
)
def test_unknown_tasks_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        check_tasks("tasks", tasks, SUITE)


def test_missing_tasks_are_refused():
    with pytest.raises(ValueError, match=r"data.tasks: here has no test rows of ARC-Easy; it has those of boolq: drop"):
        choose_scored(["ARC-Easy", "boolq"], ["boolq"], "here")
    with pytest.raises(
        ValueError, match=r"data.train_tasks: the hub has no training rows of boolq; it has those of no"
    ):
        choose_trained(["boolq"], [], None)
