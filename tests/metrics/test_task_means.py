"""Tasks count alike."""

import pytest

from wegeft_pl.metrics import mean_over_tasks


def test_the_mean_of_the_paper_s_row():
    # LLaMA-1-7B on Math10k: 24.4, 30.7, 84.9, 47.1, printed mean 46.8.
    scores = {"AQuA": 24.4, "gsm8k": 30.7, "mawps": 84.9, "SVAMP": 47.1}
    assert mean_over_tasks(scores) == pytest.approx(46.8, abs=0.05)


def test_tasks_without_rows_are_left_out():
    assert mean_over_tasks({"a": 1.0, "b": float("nan")}) == 1.0
    assert mean_over_tasks({"b": float("nan")}) is None
