"""How each kind of layer stores its weight and lays out its features: the only place that knows layer classes.

Shapes: O out features, I in features (per group), R rank, D edited width, G groups of a convolution, P rows and
Q columns of a weight seen as a matrix. On the input side that matrix is (P, I), every kernel position of every output
channel a row; on the output side it is (O / G, Q). For a plain linear layer both are (O, I).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from wegeft_pl.adapter.quantized import quantization_of


@dataclass(frozen=True)
class Layout:
    """One layer's geometry, read from the layer once.

    Args:
        kind: ``"linear"`` (nn.Linear and its quantised subclasses), ``"conv1d"`` (Hugging Face's transposed linear)
            or ``"conv2d"``.
        in_features: I, per group for a convolution.
        out_features: O, over all groups.
        groups: G; 1 except for grouped convolutions.
        kernel: kernel height and width; (1, 1) for linear layers.
    """

    kind: str
    in_features: int
    out_features: int
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)

    def width(self, side: str) -> int:
        """D, the features that phi and psi act on: I on the input side, O / G on the output side."""
        return self.in_features if side == "input" else self.out_features // self.groups

    def rows(self, side: str) -> int:
        """The rows of :meth:`to_matrix`: O times the kernel's positions on the input side, O / G on the output side."""
        positions = self.kernel[0] * self.kernel[1]
        return self.out_features * positions if side == "input" else self.out_features // self.groups

    def to_matrix(self, weight: Tensor, side: str) -> Tensor:
        """Sees a stored weight as the matrix that a generator works on: (P, I) or (O / G, Q)."""
        if self.kind == "linear":
            return weight
        if self.kind == "conv1d":
            return weight.T
        if side == "input":
            return weight.permute(2, 3, 0, 1).reshape(-1, self.in_features)
        grouped = weight.reshape(self.groups, -1, self.in_features, *self.kernel)
        return grouped.transpose(0, 1).reshape(self.out_features // self.groups, -1)

    def from_matrix(self, matrix: Tensor, side: str) -> Tensor:
        """The inverse of :meth:`to_matrix`: the matrix back in the layer's own shape."""
        if self.kind == "linear":
            return matrix
        if self.kind == "conv1d":
            return matrix.T
        if side == "input":
            return matrix.reshape(*self.kernel, self.out_features, self.in_features).permute(2, 3, 0, 1)
        grouped = matrix.reshape(-1, self.groups, self.in_features, *self.kernel)
        return grouped.transpose(0, 1).reshape(self.out_features, self.in_features, *self.kernel)

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
            A tensor of the layer's output shape, without bias.
        """
        if self.kind != "conv2d":
            return F.linear(F.linear(x, right), left)
        assert isinstance(module, nn.Conv2d)
        rank = left.shape[1]
        if side == "input":
            kernel = left.reshape(*self.kernel, self.out_features, rank).permute(2, 3, 0, 1)
            return module._conv_forward(self._pointwise(x, right), kernel, None)
        grouped = right.reshape(rank, self.groups, self.in_features, *self.kernel).transpose(0, 1)
        kernel = grouped.reshape(self.groups * rank, self.in_features, *self.kernel)
        return self._pointwise(module._conv_forward(x, kernel, None), left)

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


def weight_of(module: nn.Module, name: str) -> Tensor:
    """The layer's floating-point weight in its stored shape.

    Raises:
        ValueError: the weight is quantised, so it cannot be read as numbers.
    """
    weight = module.get_parameter("weight")
    scheme = quantization_of(weight)
    if scheme is not None:
        raise ValueError(
            f"{name} stores a quantised weight ({scheme}) that cannot be read as numbers; train it with form: edit, "
            "and use python -m wegeft_pl merge (or export) with --base original or --base dequantized"
        )
    return weight


def bias_of(module: nn.Module) -> nn.Parameter | None:
    """The layer's bias (O,), or None."""
    return dict(module.named_parameters(recurse=False)).get("bias")
