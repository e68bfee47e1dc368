"""How answers are drawn: greedily, or several to a prompt at a temperature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng


@dataclass(frozen=True)
class Sampling:
    """Settings of generation.

    Args:
        num_samples: answers to each prompt.
        temperature: of the probabilities that tokens are drawn from; None: greedy.
        top_p: tokens are drawn among the most likely ones that have this probability together.

    Raises:
        ValueError: a setting is out of range, or several answers are asked for and all would be the same.
    """

    num_samples: int = 1
    temperature: float | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {self.num_samples}")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, or null for greedy decoding, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.temperature is None and (self.num_samples > 1 or self.top_p < 1):
            raise ValueError(
                f"num_samples={self.num_samples} and top_p={self.top_p:g} need answers that are drawn; "
                "set model.temperature (0.8 is usual for pass@10, 0.2 for pass@1)"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of ``generate`` that say how tokens are chosen."""
        if self.temperature is None:
            return {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
        return {
            "do_sample": True,
            "num_beams": 1,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0,  # not the 50 that transformers takes unasked
            "num_return_sequences": self.num_samples,
        }

    @contextmanager
    def drawing(self, ids: Sequence[int]) -> Iterator[None]:
        """Draws by the run's seed and the batch's first row, and leaves training's own random numbers alone."""
        if self.temperature is None:
            yield
            return
        seed = torch.initial_seed()
        with isolate_rng():
            torch.manual_seed((seed + 1 + int(ids[0])) % 2**63)
            yield
