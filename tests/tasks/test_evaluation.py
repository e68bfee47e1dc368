"""Scores by task: each row under its own rule, each task alike in the mean, ranks adding up."""

from functools import partial

import pytest
import torch

from wegeft_pl.metrics import AnswerRule, last_number, numbers_equal, same_text
from wegeft_pl.tasks import Prediction, TextEvaluation

RULES = {
    "boolq": AnswerRule(str.strip, same_text, "boolq", in_mean=True),
    "gsm8k": AnswerRule(last_number, partial(numbers_equal, tolerance=1e-3), "gsm8k", in_mean=True),
    "gsm8k_exact": AnswerRule(last_number, numbers_equal, "gsm8k"),
    "piqa": AnswerRule(str.strip, same_text, "piqa", in_mean=True),
}


def evaluation(extractors, outputs):
    """Answers from a dict by prompt; the loss is 2 over 1 token a row."""
    return TextEvaluation(
        lambda batch: (torch.tensor(2.0 * len(batch["id"])), torch.tensor(len(batch["id"]))),
        lambda batch: [outputs[prompt] for prompt in batch["prompt"]],
        extractors,
    )


def batch(*rows):
    ids, tasks, prompts, references = zip(*rows, strict=True)
    found = {"id": list(ids), "prompt": list(prompts), "reference": list(references), "prompt_ids": torch.zeros(1)}
    return found if tasks[0] is None else found | {"task": list(tasks)}


ROWS = [(0, "boolq", "a", "true"), (1, "gsm8k", "b", "7"), (2, "gsm8k", "c", "8"), (3, "boolq", "d", "true")]
OUTPUTS = {"a": "true", "b": "7.0005", "c": "9", "d": "7"}


def test_rows_of_several_tasks_in_one_batch():
    scorer = evaluation(RULES, OUTPUTS)
    predictions = scorer.update(batch(*ROWS))
    assert scorer.compute() == {
        "loss": 2.0,
        "perplexity": pytest.approx(7.389056),
        "mean": 0.5,
        "boolq": 0.5,
        "gsm8k": 0.5,
        "gsm8k_exact": 0.0,  # beside the mean, and piqa, of which there is no row, is no score
    }
    assert list(scorer.compute()) == ["loss", "perplexity", "mean", "boolq", "gsm8k", "gsm8k_exact"]
    assert [prediction.task for prediction in predictions] == ["boolq", "gsm8k", "gsm8k", "boolq"]
    assert predictions[1].to_dict() == {
        "id": 1, "prompt": "b", "output": "7.0005", "reference": "7", "task": "gsm8k",
        "extracted": {"gsm8k": "7.0005", "gsm8k_exact": "7.0005"}, "correct": {"gsm8k": True, "gsm8k_exact": False},
    }  # fmt: skip


def test_the_mean_counts_tasks_not_rows():
    scorer = evaluation(RULES, OUTPUTS)
    scorer.update(batch(ROWS[0], ROWS[2], (4, "gsm8k", "c", "1"), (5, "gsm8k", "c", "2")))
    assert scorer.compute()["mean"] == 0.5
    assert scorer.compute()["gsm8k"] == 0.0


def test_a_row_counts_once_and_a_filler_never():
    scorer = evaluation(RULES, OUTPUTS)
    scorer.update(batch(ROWS[0], (-1, "boolq", "d", "true")))
    scorer.update(batch(ROWS[0], ROWS[3]))
    assert scorer.compute()["boolq"] == 0.5
    scorer.reset()
    scorer.update(batch(ROWS[3]))
    assert scorer.compute()["boolq"] == scorer.compute()["mean"] == 0.0


def test_a_rank_without_a_task_s_rows_adds_nothing():
    """Two ranks' sums, put together as torchmetrics does it, are the scores of one process."""
    ranks = [evaluation(RULES, OUTPUTS) for _ in range(2)]
    ranks[0].update(batch(ROWS[0], ROWS[3]))
    ranks[1].update(batch(ROWS[1], ROWS[2]))
    whole = evaluation(RULES, OUTPUTS)
    for index, match in enumerate(whole.matches):
        match.num_correct = sum((rank.matches[index].num_correct for rank in ranks), torch.tensor(0))
        match.num_total = sum((rank.matches[index].num_total for rank in ranks), torch.tensor(0))
    assert {k: v for k, v in whole.compute().items() if k != "piqa"} == {
        "mean": 0.5, "boolq": 0.5, "gsm8k": 0.5, "gsm8k_exact": 0.0,
    }  # fmt: skip


def test_names_of_tasks_may_be_anything():
    names = ["train", "items", "keys", "a.b", "ARC-Easy"]
    rules = {name: AnswerRule(str.strip, same_text, name, in_mean=True) for name in names}
    scorer = evaluation(rules, {"p": "x"})
    scorer.update(batch(*((number, name, "p", "x") for number, name in enumerate(names))))
    assert scorer.compute()["mean"] == 1.0
    assert scorer.compute()["a.b"] == 1.0


def test_plain_functions_score_every_row_and_there_is_no_mean():
    scorer = evaluation({"exact_match": last_number}, {"p": "it is 7"})
    predictions = scorer.update(batch((0, None, "p", "7")))
    assert set(scorer.compute()) == {"loss", "perplexity", "exact_match"}
    assert predictions == [Prediction(0, "p", "it is 7", "7", {"exact_match": "7"}, {"exact_match": True})]
    assert "task" not in predictions[0].to_dict()
