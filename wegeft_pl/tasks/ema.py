"""A moving average of what is trained, and never of the base.

Outside of training steps the model holds the average: scores, checkpoints, the saved adapter and the merged model are
of it. Only between the start of a step's first batch and the end of its optimiser step does the model hold the values
that are trained; both copies are as small as the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """The average of trained parameters, a_t = d a_{t-1} + (1 - d) w_t with d = min(decay, (1 + t) / (10 + t)).

    The decay starts low so that a short run's average is not its start value.

    Args:
        decay: in (0, 1).
        parameters: the trained parameters by name; asked for anew each time.

    Raises:
        ValueError: the decay lies outside (0, 1).
    """

    def __init__(self, decay: float, parameters: Callable[[], Iterator[tuple[str, nn.Parameter]]]) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay must lie in (0, 1) (null: no average), got {decay!r}")
        self.decay = decay
        self._parameters = parameters
        #: Whichever of the two the model does not hold: trained values or, inside a step, their average.
        self._other: dict[str, Tensor] = {}
        self._inside = False
        self._steps = 0

    def enter_step(self) -> None:
        """Gives the model the values that are trained; does nothing inside a step."""
        if not self._inside:
            self._exchange()
            self._inside = True

    def leave_step(self) -> None:
        """Averages behind an optimiser step, and gives the model the average."""
        assert self._inside
        self._steps += 1
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            for name, parameter in self._parameters():
                self._other[name].lerp_(parameter, 1 - decay)
        self.show_average()

    def show_average(self) -> None:
        """Gives the model the average, also between the batches of one step; :meth:`enter_step` goes back."""
        if self._inside:
            self._exchange()
            self._inside = False

    def save(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Splits a checkpoint's tensors into the average and what going on needs beside it.

        Args:
            state: the tensors of the whole checkpoint.

        Returns:
            The tensors, averaged ones in place of trained ones, and the rest for :meth:`load`.
        """
        current = {name: parameter.detach().cpu().clone() for name, parameter in self._parameters()}
        other = {name: tensor.cpu().clone() for name, tensor in self._other.items()} or dict(current)
        trained, average = (current, other) if self._inside else (other, current)
        return {**state, **average}, {"trained": trained, "steps": self._steps}

    def load(self, content: Mapping[str, Any]) -> None:
        """Goes on from :meth:`save`'s second result; the model gets the average with its own state.

        Raises:
            ValueError: other parameters were trained.
        """
        names = dict(self._parameters())
        if content["trained"].keys() != names.keys():
            raise ValueError("this checkpoint's moving average is of other parameters; resume with the same settings")
        self._other = {name: content["trained"][name].to(parameter.device) for name, parameter in names.items()}
        self._steps, self._inside = content["steps"], False

    def _exchange(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters():
                if name not in self._other:
                    self._other[name] = parameter.detach().clone()
                    continue
                kept = self._other[name].to(parameter.device)
                self._other[name] = parameter.detach().clone()
                parameter.copy_(kept)
