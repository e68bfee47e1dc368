"""Start values of a new classifier: drawn with a seed of its own, so that ranks and resumed runs have the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

HeadInit = Literal["library", "zero"]


@contextmanager
def run_seed() -> Iterator[None]:
    """Draws from the run's seed (``seed_everything``; 0 without one) inside, and leaves torch's generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(os.environ.get("PL_GLOBAL_SEED", "0")))
        yield


def start_at_zero(model: nn.Module, heads: Iterable[str]) -> None:
    """Sets the last linear layer of every head to zero: all classes are equally likely at step 0.

    Args:
        model: the model.
        heads: names of its classifiers.
    """
    for name in heads:
        layers = [module for module in model.get_submodule(name).modules() if isinstance(module, nn.Linear)]
        assert layers, f"{name} has no linear layer"
        for parameter in layers[-1].parameters():
            nn.init.zeros_(parameter)
