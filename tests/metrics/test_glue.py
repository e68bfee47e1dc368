"""Which score a GLUE task is compared by, and the mean of six."""

from __future__ import annotations

import pytest
import torch

from wegeft_pl.metrics import ClassScores, RegressionScores
from wegeft_pl.metrics.glue import GLUE_SCORES, glue_headline, glue_mean

#: RoBERTa-base with VeRA, as its paper prints the six: SST-2, MRPC, CoLA, QNLI, RTE, STS-B.
VERA = {"sst2": 94.6, "mrpc": 89.5, "cola": 65.6, "qnli": 91.8, "rte": 78.7, "stsb": 90.7}


def scores_of(headlines: dict[str, float]) -> dict[str, dict[str, float]]:
    """Puts each headline among scores that must not be taken."""
    other = {"loss": 9.0, "accuracy": -1.0, "f1": -1.0, "matthews": -1.0, "pearson": -1.0, "spearman": -1.0}
    names = {"cola": "matthews", "stsb": "pearson"}
    return {task: {**other, names.get(task, "accuracy"): value} for task, value in headlines.items()}


def test_the_published_mean_comes_out() -> None:
    assert glue_mean(scores_of(VERA)) == pytest.approx(85.2, abs=0.06)  # the six are rounded themselves


def test_other_tasks_do_not_count_and_none_may_lack() -> None:
    assert glue_mean(scores_of(VERA | {"qqp": 0.0})) == glue_mean(scores_of(VERA))
    with pytest.raises(ValueError, match=r"the GLUE mean needs sst2, .*; cola, rte not there"):
        glue_mean({task: value for task, value in scores_of(VERA).items() if task not in ("cola", "rte")})


def test_scores_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"no GLUE task 'boolq'; there are cola, .*wnli"):
        glue_headline("boolq", {"accuracy": 1.0})
    with pytest.raises(ValueError, match=r"cola is compared by matthews, got only accuracy"):
        glue_headline("cola", {"accuracy": 1.0})


def test_every_score_is_one_that_the_metrics_give() -> None:
    pairs = ClassScores(2)
    pairs.update(torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, 0]))
    numbers = RegressionScores()
    numbers.update(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 4.0]))
    known = pairs.compute() | numbers.compute()
    assert {name for names in GLUE_SCORES.values() for name in names} <= known.keys()
