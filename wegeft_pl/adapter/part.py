"""A part of a fused layer: which of its output features belong to q, to k, to v.

Fused projections lay their parts out in periods: one period of [q; k; v] in timm, one for each head in GPT-NeoX. So a
part is a stretch of every period. Shapes: N features along the axis in question, n of them in the part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Features ``start`` to ``stop - 1`` of each of ``repeats`` periods of ``period`` features.

    Example:
        >>> Part(repeats=2, period=3, start=1, stop=2).take(torch.arange(6), 0)
        tensor([1, 4])
    """

    repeats: int
    period: int
    start: int
    stop: int

    @classmethod
    def named(cls, sizes: Mapping[str, int], out_features: int, layer: str) -> dict[str, Part]:
        """Makes the parts of a layer.

        Args:
            sizes: the parts' sizes within one period, in their order.
            out_features: N; the period repeats as often as it fits.
            layer: for messages.

        Returns:
            The parts by name.

        Raises:
            ValueError: a size is not positive, or the layer is no whole number of periods.
        """
        period, parts, start = sum(sizes.values()), {}, 0
        if not sizes or min(sizes.values()) < 1 or out_features % period:
            listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ValueError(
                f"fused: parts of {listed or 'nothing'} do not divide the {out_features} output features of {layer}; "
                "give every part's size within one period, in order"
            )
        for name, size in sizes.items():
            parts[name] = cls(out_features // period, period, start, start + size)
            start += size
        return parts

    @property
    def size(self) -> int:
        """n, the features in the part."""
        return self.repeats * (self.stop - self.start)

    def take(self, tensor: Tensor, axis: int) -> Tensor:
        """Takes the part's features along an axis of N: a view where the part is one stretch."""
        if self.repeats == 1:
            return tensor.narrow(axis, self.start, self.stop - self.start)
        axis %= tensor.ndim
        periods = tensor.unflatten(axis, (self.repeats, self.period))
        return periods.narrow(axis + 1, self.start, self.stop - self.start).flatten(axis, axis + 1)

    def place(self, tensor: Tensor, axis: int) -> Tensor:
        """The inverse of :meth:`take`: N features along the axis, zero outside of the part."""
        axis %= tensor.ndim
        behind = [0, 0] * (tensor.ndim - 1 - axis)
        margins = [self.start, self.period - self.stop]
        if self.repeats == 1:
            return F.pad(tensor, behind + margins)
        periods = tensor.unflatten(axis, (self.repeats, self.stop - self.start))
        return F.pad(periods, behind + margins).flatten(axis, axis + 1)

    def mask(self) -> Tensor:
        """Which of the N features are in the part: bool (N,), on the CPU."""
        return self.place(torch.ones(self.size, dtype=torch.bool), 0)
