"""One way to score, used by validation, test, prediction and the scores before and after a run."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torchmetrics import SumMetric

from wegeft_pl.metrics import AnswerRule, ExactMatch, mean_over_tasks

#: A rule says how answers are compared and for which task's rows it is; a plain function compares numbers everywhere.
Extractors = Mapping[str, Callable[[str], str | None] | AnswerRule]


@runtime_checkable
class HasAnswers(Protocol):
    """A data module whose answers can be scored."""

    @property
    def answer_extractors(self) -> Extractors:
        """Scores by name, each with how the answer is found in a generated text."""
        ...


@dataclass  # not frozen: Lightning rebuilds the outputs of predict_step field by field
class Prediction:
    """One generated answer.

    Args:
        id: the sample's number in its split.
        prompt: what the model was given.
        output: what it generated, without prompt and special tokens.
        reference: the gold answer.
        extracted: the answer found in the output, by score.
        correct: whether it equals the reference, by score.
        task: which of several mixed data sets the sample is from; None where there is one.
    """

    id: int
    prompt: str
    output: str
    reference: str
    extracted: dict[str, str | None]
    correct: dict[str, bool]
    task: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types; no task where there is one data set."""
        fields = dataclasses.asdict(self)
        return fields if self.task is not None else {name: fields[name] for name in fields if name != "task"}


class Evaluation(nn.Module, ABC):
    """Adds up scores over batches; torchmetrics underneath, so that ranks add up too."""

    @abstractmethod
    def update(self, batch: Any) -> list[Prediction]:
        """Scores one batch and returns what was generated for it, if anything."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Returns the scores of everything since the last reset, by name."""

    @abstractmethod
    def reset(self) -> None:
        """Forgets everything."""


class TextEvaluation(Evaluation):
    """Token-weighted loss and perplexity, and generated answers against references.

    Rows of several data sets may be mixed: a batch's ``task`` (a list of names) says which rule scores which row, and
    ``mean`` is the mean of the tasks' own scores, each task counting alike.

    Args:
        loss: maps a batch to (loss sum (), number of labelled tokens ()).
        generate: maps a batch with prompts to one generated text per sample, or None to score the loss alone.
        extractors: the data set's scores.
    """

    def __init__(
        self,
        loss: Callable[[dict[str, Any]], tuple[Tensor, Tensor]],
        generate: Callable[[dict[str, Any]], list[str]] | None,
        extractors: Extractors,
    ) -> None:
        super().__init__()
        self._loss, self._generate = loss, generate
        self.loss_sum, self.num_tokens = SumMetric(), SumMetric()
        self._rules = {
            name: rule if isinstance(rule, AnswerRule) else AnswerRule(rule) for name, rule in extractors.items()
        }
        # A list: names of data sets may be none that a ModuleDict takes.
        self.matches = nn.ModuleList(ExactMatch(rule.extract, rule.equal) for rule in self._rules.values())
        self._seen: set[int] = set()
        self.reset()

    def update(self, batch: dict[str, Any]) -> list[Prediction]:
        """Scores one batch.

        A sample whose id was seen already is not counted again. A negative id marks a row that only fills up a rank's
        last batch; such a row carries no labels and gives no prediction.
        """
        loss_sum, num_tokens = self._loss(batch)
        self.loss_sum.update(loss_sum.detach())
        self.num_tokens.update(num_tokens)
        if self._generate is None or "prompt_ids" not in batch:
            return []
        outputs = self._generate(batch)
        tasks = batch.get("task", [None] * len(outputs))
        rows = zip(batch["id"], batch["prompt"], outputs, batch["reference"], tasks, strict=True)
        predictions = [self._judge(*row) for row in rows if row[0] >= 0]
        fresh = [prediction for prediction in predictions if prediction.id not in self._seen]
        self._seen.update(prediction.id for prediction in fresh)
        for name, match in zip(self._rules, self.matches, strict=True):
            assert isinstance(match, ExactMatch)
            own = [prediction for prediction in fresh if self._rules[name].covers(prediction.task)]
            match.update([p.output for p in own], [p.reference for p in own])
        return predictions

    def compute(self) -> dict[str, float]:
        """Returns loss, perplexity (at most e^700, a float's range), and each score where answers were generated.

        The mean over tasks stands before the tasks' scores.
        """
        # Every rank asks every metric, whether it had samples of its own or not: each is a collective.
        loss_sum, num_tokens = float(self.loss_sum.compute()), float(self.num_tokens.compute())
        found = {}
        for name, match in zip(self._rules, self.matches, strict=True):
            assert isinstance(match, ExactMatch)
            found[name] = float(match.compute())
        scores = {}
        if num_tokens:
            loss = loss_sum / num_tokens
            scores = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        mean = mean_over_tasks({name: score for name, score in found.items() if self._rules[name].in_mean})
        scores |= {} if mean is None else {"mean": mean}
        return scores | {name: score for name, score in found.items() if not math.isnan(score)}

    def reset(self) -> None:
        """Forgets everything."""
        self._seen.clear()
        # An update with nothing, so that a rank without samples may compute.
        for total in (self.loss_sum, self.num_tokens):
            total.reset()
            total.update(0.0)
        for match in self.matches:
            assert isinstance(match, ExactMatch)
            match.reset()
            match.update([], [])

    def _judge(self, id: int, prompt: str, output: str, reference: str, task: str | None) -> Prediction:
        rules = {name: rule for name, rule in self._rules.items() if rule.covers(task)}
        extracted = {name: rule(output) for name, rule in rules.items()}
        correct = {
            name: answer is not None and rules[name].equal(answer, reference) for name, answer in extracted.items()
        }
        return Prediction(int(id), prompt, output, reference, extracted, correct, task)
