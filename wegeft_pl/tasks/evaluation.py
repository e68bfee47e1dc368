"""One way to score, used by validation, test, prediction and the scores before and after a run."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torchmetrics import MeanMetric

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
        self.mean_loss = MeanMetric()
        self.matches = nn.ModuleDict({name: ExactMatch(extract) for name, extract in extractors.items()})
        self._seen: set[int] = set()

    def update(self, batch: dict[str, Any]) -> list[Prediction]:
        """Scores one batch; a sample whose id was seen already (a sampler's repeat) is generated but not counted."""
        loss_sum, num_tokens = self._loss(batch)
        if num_tokens > 0:
            self.mean_loss.update(loss_sum / num_tokens, weight=num_tokens)
        if self._generate is None or "prompt_ids" not in batch:
            return []
        outputs = self._generate(batch)
        predictions = [
            self._judge(*row) for row in zip(batch["id"], batch["prompt"], outputs, batch["reference"], strict=True)
        ]
        fresh = [prediction for prediction in predictions if prediction.id not in self._seen]
        self._seen.update(prediction.id for prediction in fresh)
        for match in self.matches.values():
            assert isinstance(match, ExactMatch)
            match.update([p.output for p in fresh], [p.reference for p in fresh])
        return predictions

    def compute(self) -> dict[str, float]:
        """Returns loss, perplexity, and each score where answers were generated."""
        scores = {}
        if self.mean_loss.update_called:
            loss = float(self.mean_loss.compute())
            scores = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        for name, match in self.matches.items():
            assert isinstance(match, ExactMatch)
            if match.update_called:
                scores[name] = float(match.compute())
        return scores

    def reset(self) -> None:
        """Forgets everything."""
        self._seen.clear()
        self.mean_loss.reset()
        for match in self.matches.values():
            assert isinstance(match, ExactMatch)
            match.reset()

    def _judge(self, id: int, prompt: str, output: str, reference: str) -> Prediction:
        extracted = {name: extract(output) for name, extract in self._extractors.items()}
        correct = {name: answer is not None and numbers_equal(answer, reference) for name, answer in extracted.items()}
        return Prediction(int(id), prompt, output, reference, extracted, correct)
