"""Scores generated programs: several samples a task, run by the data module where a user lets it, pass@k."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from wegeft_pl.metrics import PassAtK
from wegeft_pl.tasks.evaluation import Evaluation, Prediction, TextEvaluation

#: The k of pass@k, as far as there are samples.
KS = (1, 10, 100)


@runtime_checkable
class HasPrograms(Protocol):
    """A data module whose test batches (those with a ``task``) ask for programs."""

    run_generated_code: bool

    def make_programs(self, number: int, outputs: Sequence[str]) -> list[str]:
        """Makes programs of the answers to a task, given its ``id``."""
        ...

    def judge(self, programs: Sequence[tuple[int, str]]) -> list[tuple[bool, str]]:
        """Runs programs of tasks: for each whether it passed, and the verdict in words."""
        ...


class CodeEvaluation(Evaluation):
    """Token-weighted loss and perplexity, and pass@k of generated programs where they may be run.

    A prediction's ``id`` is its task's number times the number of samples, plus the sample's: each sample is kept. Its
    ``extracted`` holds the program and, where that was run, the verdict.

    Args:
        loss: maps a batch to (loss sum (), number of labelled tokens ()).
        generate: maps a batch with prompts to texts, ``num_samples`` for each prompt; None to score the loss alone.
        num_samples: answers to each prompt.
        judge: the data module.
    """

    def __init__(
        self,
        loss: Callable[[dict[str, Any]], tuple[Tensor, Tensor]],
        generate: Callable[[dict[str, Any]], list[list[str]]] | None,
        num_samples: int,
        judge: HasPrograms,
    ) -> None:
        super().__init__()
        self.text = TextEvaluation(loss, None, {})
        self.pass_at_k = PassAtK([k for k in KS if k <= num_samples])
        self._generate, self._num_samples, self._judge = generate, num_samples, judge
        self._seen: set[int] = set()
        self.reset()

    def update(self, batch: dict[str, Any]) -> list[Prediction]:
        """Scores one batch; a task whose id was seen already is not counted again, a negative id never is."""
        self.text.update(batch)
        if self._generate is None or "prompt_ids" not in batch:
            return []
        outputs = self._generate(batch)
        tasks = batch.get("task", [None] * len(outputs))
        rows = [
            row
            for row in zip(batch["id"], batch["prompt"], outputs, batch["reference"], tasks, strict=True)
            if row[0] >= 0
        ]
        if "task" not in batch:  # instruction data, which has no tests
            return [self._prediction(row, sample, {}, {}) for row in rows for sample in range(len(row[2]))]
        programs = [
            (int(id), program) for id, _, texts, _, _ in rows for program in self._judge.make_programs(int(id), texts)
        ]
        verdicts = self._judge.judge(programs) if self._judge.run_generated_code else None
        predictions = []
        for place, (_, program) in enumerate(programs):
            row, sample = rows[place // self._num_samples], place % self._num_samples
            if verdicts is None:
                predictions.append(self._prediction(row, sample, {"program": program}, {}))
            else:
                passed, verdict = verdicts[place]
                found: dict[str, str | None] = {"program": program, "verdict": verdict}
                predictions.append(self._prediction(row, sample, found, {"pass": passed}))
        if verdicts is not None:
            self._count([int(row[0]) for row in rows], [passed for passed, _ in verdicts])
        return predictions

    def compute(self) -> dict[str, float]:
        """Returns loss, perplexity, and pass@k where programs were run."""
        scores = self.text.compute()
        found = {f"pass@{k}": float(value) for k, value in self.pass_at_k.compute().items()}
        return scores | {name: value for name, value in found.items() if not math.isnan(value)}

    def reset(self) -> None:
        """Forgets everything."""
        self._seen.clear()
        self.text.reset()
        self.pass_at_k.reset()
        self.pass_at_k.update([], [])  # so that a rank without samples may compute

    def _count(self, ids: list[int], passed: list[bool]) -> None:
        n = self._num_samples
        fresh = {id: sum(passed[place * n : (place + 1) * n]) for place, id in enumerate(ids) if id not in self._seen}
        self._seen.update(fresh)
        self.pass_at_k.update([n] * len(fresh), list(fresh.values()))

    def _prediction(
        self, row: tuple[Any, ...], sample: int, extracted: dict[str, str | None], correct: dict[str, bool]
    ) -> Prediction:
        id, prompt, outputs, reference, task = row
        number = int(id) * self._num_samples + sample
        return Prediction(number, prompt, outputs[sample], reference, extracted, correct, task)
