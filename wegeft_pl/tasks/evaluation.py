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

from wegeft_pl.metrics import ExactMatch, numbers_equal

Extractors = Mapping[str, Callable[[str], str | None]]


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
    """

    id: int
    prompt: str
    output: str
    reference: str
    extracted: dict[str, str | None]
    correct: dict[str, bool]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return dataclasses.asdict(self)


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
        self._loss, self._generate, self._extractors = loss, generate, extractors
        self.loss_sum, self.num_tokens = SumMetric(), SumMetric()
        self.matches = nn.ModuleDict({name: ExactMatch(extract) for name, extract in extractors.items()})
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
        rows = zip(batch["id"], batch["prompt"], outputs, batch["reference"], strict=True)
        predictions = [self._judge(*row) for row in rows if row[0] >= 0]
        fresh = [prediction for prediction in predictions if prediction.id not in self._seen]
        self._seen.update(prediction.id for prediction in fresh)
        for match in self.matches.values():
            assert isinstance(match, ExactMatch)
            match.update([p.output for p in fresh], [p.reference for p in fresh])
        return predictions

    def compute(self) -> dict[str, float]:
        """Returns loss, perplexity (at most e^700, a float's range), and each score where answers were generated."""
        # Every rank asks every metric, whether it had samples of its own or not: each is a collective.
        loss_sum, num_tokens = float(self.loss_sum.compute()), float(self.num_tokens.compute())
        found = {}
        for name, match in self.matches.items():
            assert isinstance(match, ExactMatch)
            found[name] = float(match.compute())
        scores = {}
        if num_tokens:
            loss = loss_sum / num_tokens
            scores = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        return scores | {name: score for name, score in found.items() if not math.isnan(score)}

    def reset(self) -> None:
        """Forgets everything."""
        self._seen.clear()
        # An update with nothing, so that a rank without samples may compute.
        for total in (self.loss_sum, self.num_tokens):
            total.reset()
            total.update(0.0)
        for match in self.matches.values():
            assert isinstance(match, ExactMatch)
            match.reset()
            match.update([], [])

    def _judge(self, id: int, prompt: str, output: str, reference: str) -> Prediction:
        extracted = {name: extract(output) for name, extract in self._extractors.items()}
        correct = {name: answer is not None and numbers_equal(answer, reference) for name, answer in extracted.items()}
        return Prediction(int(id), prompt, output, reference, extracted, correct)
