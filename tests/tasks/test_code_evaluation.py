from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import SmallData, make_trainer
from tasks.tiny_task import make_task

from wegeft_pl.losses import IGNORED
from wegeft_pl.tasks.code_evaluation import CodeEvaluation, HasPrograms


class Judge:
    """A task's program passes if it holds the task's number."""

    def __init__(self, run: bool = True) -> None:
        self.run_generated_code = run
        self.judged: list[tuple[int, str]] = []

    def make_programs(self, number: int, outputs: Sequence[str]) -> list[str]:
        return [f"program {output}" for output in outputs]

    def judge(self, programs: Sequence[tuple[int, str]]) -> list[tuple[bool, str]]:
        assert self.run_generated_code
        self.judged += programs
        passed = [str(number) in program for number, program in programs]
        return [(ok, "passed" if ok else "failed") for ok in passed]


def loss(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(6.0), torch.tensor(3.0)


def batch(*ids: int) -> dict[str, Any]:
    return {
        "id": list(ids), "prompt": [f"do {n}" for n in ids], "reference": [f"T/{n}" for n in ids],
        "task": ["t"] * len(ids),
        "prompt_ids": torch.zeros(len(ids), 1), "labels": torch.full((len(ids), 1), IGNORED),
    }  # fmt: skip


def test_every_sample_is_judged_and_kept() -> None:
    judge = Judge()
    evaluation = CodeEvaluation(loss, lambda b: [["1", "2"], ["2", "2"]], 2, judge)
    found = evaluation.update(batch(1, 2))
    assert [one.id for one in found] == [2, 3, 4, 5]
    assert [one.correct["pass"] for one in found] == [True, False, True, True]
    assert found[1].extracted == {"program": "program 2", "verdict": "failed"}
    assert found[1].reference == "T/1"
    assert evaluation.compute() == pytest.approx({"loss": 2.0, "perplexity": 7.389056, "pass@1": 0.75})
    assert json.dumps(found[0].to_dict())
    evaluation.update(batch(1, 2))  # a repeat
    assert evaluation.compute()["pass@1"] == 0.75
    evaluation.reset()
    assert evaluation.compute() == {}


def test_pass_at_ten() -> None:
    evaluation = CodeEvaluation(loss, lambda b: [["7"] + ["0"] * 19], 20, Judge())
    evaluation.update(batch(7))
    scores = evaluation.compute()
    assert scores["pass@1"] == pytest.approx(1 / 20)
    assert scores["pass@10"] == pytest.approx(0.5)
    assert "pass@100" not in scores


def test_rows_that_fill_up_are_not_judged() -> None:
    judge = Judge()
    evaluation = CodeEvaluation(loss, lambda b: [["1"], ["1"]], 1, judge)
    assert [one.id for one in evaluation.update(batch(1, -1))] == [1]
    assert judge.judged == [(1, "program 1")]
    assert evaluation.compute()["pass@1"] == 1.0


def test_without_leave_nothing_runs() -> None:
    judge = Judge(run=False)
    evaluation = CodeEvaluation(loss, lambda b: [["1"]], 1, judge)
    (found,) = evaluation.update(batch(1))
    assert (found.extracted, found.correct) == ({"program": "program 1"}, {})
    assert set(evaluation.compute()) == {"loss", "perplexity"}


def test_instruction_data_has_no_programs() -> None:
    judge = Judge()
    evaluation = CodeEvaluation(loss, lambda b: [["1"]], 1, judge)
    plain = batch(1)
    del plain["task"]
    (found,) = evaluation.update(plain)
    assert (found.output, found.extracted) == ("1", {})
    assert judge.judged == []
    assert CodeEvaluation(loss, None, 1, judge).update(batch(1)) == []


class Programs(SmallData, Judge):
    def __init__(self) -> None:
        SmallData.__init__(self)
        Judge.__init__(self)


def test_the_task_scores_data_that_asks_for_programs(llama_folder: Path, tmp_path: Path) -> None:
    data = Programs()
    assert isinstance(data, HasPrograms)
    trainer = make_trainer(tmp_path)
    task = make_task(llama_folder, num_samples=2, temperature=1.0)
    trainer.datamodule = data  # type: ignore[attr-defined]
    task.trainer = trainer
    assert isinstance(task.new_evaluation(), CodeEvaluation)
    trainer.datamodule = SmallData()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"model.num_samples=2, and SmallData scores one answer to each prompt"):
        task.new_evaluation()
