"""Quantised weights: what they are, and what they take. The only place of the core that knows their classes.

They are recognised by name, because the core imports neither bitsandbytes nor torchao. torchao's are tensors that call
themselves bfloat16 or float32, so their dtype says nothing.

Shapes: O out features, I in features, N = O I numbers of a weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

#: What ``quantize`` may be. bnb-nf4, bnb-fp4: 4 bits in blocks of 64, their scales in 8 bits (double quantisation);
#: bnb-int8: 8 bits a row, LLM.int8() with 16-bit outliers; torchao-int8, torchao-int4: weight only.
SCHEMES = ("bnb-nf4", "bnb-fp4", "bnb-int8", "torchao-int8", "torchao-int4")

#: Numbers that share one scale: in bitsandbytes' 4-bit weights, among the scales themselves, and in torchao's int4.
BLOCK, NESTED_BLOCK, INT4_GROUP = 64, 256, 128


class PlannedWeight(nn.Parameter):
    """A weight on the meta device that stands for one that will be quantised when it is loaded.

    It has the shape and dtype of the weight before, so that shapes can be computed with it.

    Args:
        data: (O, I), without values.
        requires_grad: False; a quantised weight is frozen.
        scheme: one of :data:`SCHEMES`.
    """

    scheme: str

    def __new__(cls, data: Tensor, requires_grad: bool = False, scheme: str = SCHEMES[0]) -> PlannedWeight:  # noqa: D102
        weight = super().__new__(cls, data, requires_grad)
        weight.scheme = scheme
        return weight

    def __deepcopy__(self, memo: dict[int, Any]) -> PlannedWeight:
        copied = memo[id(self)] = type(self)(self.data.clone(), self.requires_grad, self.scheme)
        return copied


def quantization_of(weight: Tensor) -> str | None:
    """How a weight is quantised.

    Returns:
        One of :data:`SCHEMES`; a class or dtype name where the weight is quantised in another way; None for numbers.

    Example:
        >>> import torch
        >>> quantization_of(torch.zeros(2, 2)), quantization_of(torch.zeros(2, 2, dtype=torch.uint8))
        (None, 'uint8')
    """
    if isinstance(weight, PlannedWeight):
        return weight.scheme
    kind = type(weight)
    if kind.__name__ == "Params4bit":
        return f"bnb-{vars(weight)['quant_type']}"
    if kind.__name__ == "Int8Params":
        return None if weight.is_floating_point() else "bnb-int8"
    if kind.__module__.startswith("torchao."):
        known = next((bits for bits in ("int8", "int4") if kind.__name__.lower().startswith(bits)), None)
        return f"torchao-{known}" if known else f"torchao's {kind.__name__}"
    return None if weight.is_floating_point() else str(weight.dtype).removeprefix("torch.")


def scheme_of(weights: Iterable[Tensor]) -> str | None:
    """How a model is quantised: what the first of its quantised weights says, or None where there is none."""
    return next((scheme for weight in weights if (scheme := quantization_of(weight)) is not None), None)


def num_elements(weight: Tensor) -> int:
    """N: how many numbers a weight stands for; bitsandbytes packs two of them into each element."""
    if type(weight).__name__ == "Params4bit":
        return math.prod(vars(weight)["quant_state"].shape)
    return weight.numel()


def stored_bytes(weight: Tensor) -> int:
    """Bytes that a quantised weight takes, its scales and tables included: counted where it is loaded, else planned."""
    if isinstance(weight, PlannedWeight):
        return planned_bytes(weight.scheme, weight.shape[0], weight.shape[1])
    if type(weight).__name__ == "Params4bit":
        state = vars(weight)["quant_state"]
        nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
        return sum(part.nbytes for part in (weight.data, state.absmax, state.code, *nested))
    if type(weight).__name__ == "Int8Params":
        return weight.nbytes + 4 * weight.shape[0]  # the scales move from the weight to its module in the first forward
    if type(weight).__module__.startswith("torchao."):
        names = weight.__tensor_flatten__()[0]  # type: ignore[attr-defined]  # the protocol of tensor subclasses
        parts: list[Tensor] = [getattr(weight, name) for name in names]
        return sum(part.nbytes for part in parts)
    return weight.nbytes


def planned_bytes(scheme: str, out_features: int, in_features: int) -> int:
    """Bytes that a weight (O, I) will take once it is quantised.

    bnb-nf4 and bnb-fp4: N / 2 bytes of codes; a scale for every 64 numbers, itself 8 bits, with a float32 scale for
    every 256 of those; tables of 16 and 256 float32 values and one offset. bnb-int8: N bytes and a float32 scale a row.
    torchao-int8: the same and an 8-bit zero point a row. torchao-int4: N / 2 bytes of codes and a bfloat16 scale and
    zero point for every 128 numbers, O filled up to a multiple of 8 and I to one of 1024, as its kernels need.

    Example:
        >>> planned_bytes("bnb-nf4", 4096, 4096) * 8 / 4096**2  # bits a number
        4.127...
    """
    rows, count = out_features, out_features * in_features
    if scheme == "bnb-int8":
        return count + 4 * rows
    if scheme == "torchao-int8":
        return count + (4 + 1) * rows
    if scheme == "torchao-int4":
        padded = math.ceil(rows / 8) * 8 * math.ceil(in_features / 1024) * 1024
        return padded // 2 + 2 * 2 * padded // INT4_GROUP
    assert scheme in ("bnb-nf4", "bnb-fp4"), scheme
    blocks = math.ceil(count / BLOCK)
    return math.ceil(count / 2) + blocks + 4 * math.ceil(blocks / NESTED_BLOCK) + 4 * (16 + 256 + 1)
