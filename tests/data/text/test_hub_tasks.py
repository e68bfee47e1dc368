"""Hub data sets as tasks, against a stand-in for the hub."""

import sys
import types

import pytest

from wegeft_pl.data.text.arithmetic_hub import ARITHMETIC_HUB
from wegeft_pl.data.text.commonsense_hub import COMMONSENSE_HUB
from wegeft_pl.data.text.hub_tasks import HubSplit, column, hub_task, pick
from wegeft_pl.data.text.instruction_rows import from_gsm8k


@pytest.fixture
def hub(monkeypatch):
    """Serves the rows that a test puts in, and keeps what was asked for."""
    served, calls = {}, []

    def load_dataset(repository, config, split, revision=None):
        calls.append((repository, config, split, revision))
        return served[repository, config, split]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return served, calls


def test_configurations_are_put_one_behind_the_other(hub):
    served, calls = hub
    for config in ("a", "b"):
        served["x/y", config, "train"] = [{"question": f"{config}?", "answer": "#### 1"}]
    rows = HubSplit("x/y", "train", from_gsm8k, ("a", "b"), "refs/convert/parquet").read("mine")
    assert [(row["instruction"], row["task"], row.place) for row in rows] == [
        ("a?", "mine", "x/y/a train: row 1"),
        ("b?", "mine", "x/y/b train: row 1"),
    ]
    assert calls == [("x/y", config, "train", "refs/convert/parquet") for config in ("a", "b")]


def test_a_task_s_test_may_be_the_validation_split(hub):
    task = hub_task("x/y", from_gsm8k, "validation")
    assert [(split, part.name) for split, part in task.items()] == [("train", "train"), ("test", "validation")]


def test_faulty_rows_are_named(hub):
    served, _ = hub
    served["x/y", None, "train"] = [{"question": "a?", "answer": "#### 1"}, {"question": "b?", "answer": "2"}]
    with pytest.raises(ValueError, match="x/y train: row 2: the gold answer must end in '#### number', got '2'"):
        HubSplit("x/y", "train", from_gsm8k).read("mine")


def test_columns_are_checked():
    assert column({"a": True}, "a", bool, "here") is True
    with pytest.raises(ValueError, match="here: no column 'b'; this row has: a"):
        column({"a": 1}, "b", int, "here")
    with pytest.raises(ValueError, match="here: column 'a' must hold int, got bool"):
        column({"a": True}, "a", int, "here")
    with pytest.raises(ValueError, match="here: column 'a' must hold str, got NoneType"):
        column({"a": None}, "a", str, "here")


def test_the_right_choice_is_one_of_them():
    assert pick(2, 2, "here") == 2
    with pytest.raises(ValueError, match="here: the answer must be one of 2 choices, got number 0"):
        pick(0, 2, "here")


def test_where_the_tasks_are():
    """Commonsense170k is the eight training sets, WinoGrande's in all sizes; scored splits are those with answers."""
    assert list(COMMONSENSE_HUB) == [
        "boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge", "openbookqa",
    ]  # fmt: skip
    assert [task["test"].name for task in COMMONSENSE_HUB.values()] == ["validation"] * 5 + ["test"] * 3
    assert len(COMMONSENSE_HUB["winogrande"]["train"].configs) == 6
    sizes = {"xs": 160, "s": 640, "m": 2558, "l": 10234, "xl": 40398, "debiased": 9248}  # of the data set's card
    assert tuple(f"winogrande_{size}" for size in sizes) == COMMONSENSE_HUB["winogrande"]["train"].configs
    assert 9427 + 16113 + 33410 + 39905 + sum(sizes.values()) + 2251 + 1119 + 4957 == 170420
    assert set(ARITHMETIC_HUB) == {"AQuA", "gsm8k", "mawps", "SVAMP", "MultiArith", "MATH"}
    assert ARITHMETIC_HUB["MATH"]["test"].repository == "HuggingFaceH4/MATH-500"
