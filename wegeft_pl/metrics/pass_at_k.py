"""pass@k: the chance that at least one of k samples of a problem is right, estimated without bias."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Estimates pass@k of one problem: 1 - C(n - c, k) / C(n, k), the share of k-subsets with a right sample.

    Computed as a product of n - c - k < i <= n - c factors below one, so that no binomial overflows.

    Args:
        num_samples: n, samples of the problem.
        num_correct: c, those that passed.
        k: samples that a user would draw.

    Returns:
        A probability.

    Raises:
        ValueError: ``k`` is not in 1..n, or ``num_correct`` is not in 0..n.

    Example:
        >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
        (0.25, 0.5, 1.0)

    Source: Chen et al., Evaluating large language models trained on code (2021), equation 1; METHOD.md section 8.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must be from 1 to the number of samples, {num_samples}, got {k}")
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct must be from 0 to the number of samples, {num_samples}, got {num_correct}")
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(num_samples - num_correct + 1, num_samples + 1))


class PassAtK(Metric):
    """The mean of :func:`pass_at_k` over problems, for several k at once.

    Args:
        ks: the values of k.

    Example:
        >>> metric = PassAtK([1, 2])
        >>> metric.update([2, 2], [1, 0])
        >>> {k: value.item() for k, value in metric.compute().items()}
        {1: 0.25, 2: 0.5}

    Source: METHOD.md section 8.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    total_K: Tensor  # noqa: N815
    num_problems: Tensor

    def __init__(self, ks: Sequence[int]) -> None:
        super().__init__()
        self.ks = list(ks)
        self.add_state("total_K", torch.zeros(len(self.ks), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_problems", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, num_samples: Sequence[int], num_correct: Sequence[int]) -> None:
        """Counts problems, each once and with all of its samples.

        Args:
            num_samples: samples of each problem.
            num_correct: how many of them passed.
        """
        for n, c in zip(num_samples, num_correct, strict=True):
            values = [pass_at_k(n, c, k) for k in self.ks]
            self.total_K += torch.tensor(values, dtype=torch.float64, device=self.total_K.device)
        self.num_problems += len(num_samples)

    def compute(self) -> dict[int, Tensor]:
        """Returns k to the mean () over all problems of all ranks; NaN when there was none."""
        return dict(zip(self.ks, self.total_K / self.num_problems, strict=True))
