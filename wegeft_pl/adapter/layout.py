"""How each kind of layer stores its weight and lays out its features: the only place that knows layer classes.

Shapes: O out features, I in features (per group), R rank, D edited width, G groups of a convolution, E stacked experts,
P rows and Q columns of a weight seen as a matrix. On the input side that matrix is (P, I), every kernel position of
every output channel, or every expert's every output feature, a row; on the output side it is (O / G, Q). For a plain
linear layer both are (O, I). For a part of a fused layer O counts the part's features alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from wegeft_pl.adapter.part import Part
from wegeft_pl.adapter.quantized import quantization_of
from wegeft_pl.adapter.stacked import Stack

#: The axis of output features in a stored weight.
OUT_AXIS = {"linear": 0, "conv1d": 1, "conv2d": 0, "stack": 1, "stack_transposed": 2}


@dataclass(frozen=True)
class Layout:
    """The geometry of one weight, or of a part of it, read from its layer once.

    Args:
        kind: ``"linear"`` (nn.Linear, its quantised subclasses, and matrices of its layout), ``"conv1d"`` (Hugging
            Face's transposed linear), ``"conv2d"``, ``"stack"`` of experts (E, O, I) or ``"stack_transposed"``
            (E, I, O).
        in_features: I, per group for a convolution.
        out_features: O, over all groups; of the part alone where there is one.
        groups: G; 1 except for grouped convolutions.
        kernel: kernel height and width; (1, 1) for linear layers.
        experts: E; 1 except for stacks.
        part: which of the layer's output features are meant; None: all.
    """

    kind: str
    in_features: int
    out_features: int
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    experts: int = 1
    part: Part | None = None

    def of_part(self, part: Part) -> Layout:
        """The geometry of a part of this weight."""
        assert self.part is None
        assert self.groups == 1
        return replace(self, out_features=part.size, part=part)

    def width(self, side: str) -> int:
        """D, the features that phi and psi act on: I on the input side, O / G on the output side."""
        return self.in_features if side == "input" else self.out_features // self.groups

    def rows(self, side: str) -> int:
        """The rows of :meth:`to_matrix`: O times positions and experts on the input side, O / G on the output side."""
        positions = self.kernel[0] * self.kernel[1] * self.experts
        return self.out_features * positions if side == "input" else self.out_features // self.groups

    def to_matrix(self, weight: Tensor, side: str) -> Tensor:
        """Sees a stored weight as the matrix that a generator works on: (P, I) or (O / G, Q)."""
        if self.part is not None:
            weight = self.part.take(weight, OUT_AXIS[self.kind])
        if self.kind == "linear":
            return weight
        if self.kind == "conv1d":
            return weight.T
        if self.kind == "stack_transposed":
            weight = weight.transpose(1, 2)
        if self.experts > 1 or self.kind.startswith("stack"):
            stacked = weight if side == "input" else weight.transpose(0, 1)
            return stacked.reshape(-1, self.in_features) if side == "input" else stacked.reshape(self.out_features, -1)
        if side == "input":
            return weight.permute(2, 3, 0, 1).reshape(-1, self.in_features)
        grouped = weight.reshape(self.groups, -1, self.in_features, *self.kernel)
        return grouped.transpose(0, 1).reshape(self.out_features // self.groups, -1)

    def from_matrix(self, matrix: Tensor, side: str) -> Tensor:
        """The inverse of :meth:`to_matrix`: the matrix in the layer's own shape, zero outside of a part."""
        weight = self._stored(matrix, side)
        return weight if self.part is None else self.part.place(weight, OUT_AXIS[self.kind])

    def _stored(self, matrix: Tensor, side: str) -> Tensor:
        if self.kind == "linear":
            return matrix
        if self.kind == "conv1d":
            return matrix.T
        if self.kind.startswith("stack"):
            if side == "input":
                weight = matrix.reshape(self.experts, self.out_features, self.in_features)
            else:
                weight = matrix.reshape(self.out_features, self.experts, self.in_features).transpose(0, 1)
            return weight if self.kind == "stack" else weight.transpose(1, 2)
        if side == "input":
            return matrix.reshape(*self.kernel, self.out_features, self.in_features).permute(2, 3, 0, 1)
        grouped = matrix.reshape(-1, self.groups, self.in_features, *self.kernel)
        return grouped.transpose(0, 1).reshape(self.out_features, self.in_features, *self.kernel)

    def take(self, y: Tensor) -> Tensor:
        """The site's own features of the layer's output (..., N) or (B, N, H, W)."""
        return y if self.part is None else self.part.take(y, self._feature_axis)

    def place(self, change: Tensor) -> Tensor:
        """The inverse of :meth:`take`: a change of the site's features as one of the layer's output."""
        return change if self.part is None else self.part.place(change, self._feature_axis)

    @property
    def _feature_axis(self) -> int:
        return -3 if self.kind == "conv2d" else -1

    def low_rank(self, x: Tensor, down_RD: Tensor, up_DR: Tensor) -> Tensor:  # noqa: N803
        """Computes (x down^T) up^T along x's feature axis, group by group.

        Args:
            x: (..., D) for linear layers; (B, G D, H, W) or (G D, H, W) for convolutions.
            down_RD: (R, D).
            up_DR: (D, R).

        Returns:
            A tensor of x's shape.
        """
        if self.kind != "conv2d":
            return F.linear(F.linear(x, down_RD), up_DR)
        return self._pointwise(self._pointwise(x, down_RD), up_DR)

    def product(self, module: nn.Module, x: Tensor, left: Tensor, right: Tensor, side: str) -> Tensor:
        """Applies the layer with the weight ``left @ right`` in place of its own, never forming the product.

        Args:
            module: the layer, for a convolution's stride, padding and dilation.
            x: the layer's input.
            left: (P, R) on the input side, (O / G, R) on the output side.
            right: (R, I) on the input side, (R, Q) on the output side.
            side: ``"input"`` or ``"output"``.

        Returns:
            A tensor of the layer's output shape, of the part's features alone where there is one, without bias.
        """
        if self.kind != "conv2d":
            return F.linear(F.linear(x, right), left)
        assert isinstance(module, nn.Conv2d)
        rank = left.shape[1]
        if side == "input":
            kernel = left.reshape(*self.kernel, self.out_features, rank).permute(2, 3, 0, 1)
            return _convolve(module, self._pointwise(x, right), kernel)
        grouped = right.reshape(rank, self.groups, self.in_features, *self.kernel).transpose(0, 1)
        kernel = grouped.reshape(self.groups * rank, self.in_features, *self.kernel)
        return self._pointwise(_convolve(module, x, kernel), left)

    def _pointwise(self, x: Tensor, weight: Tensor) -> Tensor:
        # The same small matrix in every group is a grouped 1x1 convolution with that matrix repeated.
        return F.conv2d(x, weight.repeat(self.groups, 1)[:, :, None, None], groups=self.groups)


def layout_of(module: nn.Module) -> Layout | None:
    """Reads a layer's layout, or None where the layer is of no kind that can be edited."""
    if isinstance(module, nn.Linear):
        return Layout("linear", module.in_features, module.out_features)
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        in_features = module.in_channels // module.groups
        return Layout("conv2d", in_features, module.out_channels, module.groups, (height, width))
    if type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils":
        # Recognised by name: the core does not import transformers.
        in_features, out_features = module.get_parameter("weight").shape
        return Layout("conv1d", in_features, out_features)
    return None


def layout_of_stack(stack: Stack) -> Layout:
    """The layout of stacked experts' weights."""
    kind = "stack_transposed" if stack.transposed else "stack"
    return Layout(kind, stack.in_features, stack.out_features, experts=stack.num_experts)


@contextmanager
def shadowed(module: nn.Module, **values: Tensor | None) -> Iterator[None]:
    """Lets a module read other values under its parameters' names; the parameters stay where they are.

    An attribute of the instance comes before a registered parameter of the same name, so nothing is unregistered.
    """
    module.__dict__.update(values)
    try:
        yield
    finally:
        for name in values:
            del module.__dict__[name]


def _convolve(module: nn.Conv2d, x: Tensor, kernel: Tensor) -> Tensor:
    if type(module).forward is nn.Conv2d.forward:
        return module._conv_forward(x, kernel, None)
    # timm's "same" convolutions pad in a forward of their own.
    with shadowed(module, weight=kernel, bias=None):
        return type(module).forward(module, x)


def weight_of(module: nn.Module, name: str, parameter: str = "weight") -> Tensor:
    """A layer's floating-point weight in its stored shape.

    Args:
        module: the layer.
        name: the layer's name, for messages.
        parameter: the weight's name in the layer.

    Raises:
        ValueError: the weight is quantised, so it cannot be read as numbers.
    """
    weight = module._parameters[parameter]  # not an attribute, which may shadow it: see shadowed
    assert weight is not None
    scheme = quantization_of(weight)
    if scheme is not None:
        raise ValueError(
            f"{name} stores a quantised weight ({scheme}) that cannot be read as numbers; train it with form: edit, "
            "and use python -m wegeft_pl merge (or export) with --base original or --base dequantized"
        )
    return weight


def bias_of(module: nn.Module, parameter: str = "bias") -> nn.Parameter | None:
    """A layer's bias, (O,) or stacked (E, O), or None."""
    return dict(module.named_parameters(recurse=False)).get(parameter)
