"""METHOD.md's equations once more, in NumPy float64 and the plainest form, to hold the project's code against.

Nothing here is shared with the package: W is (O, I) as stored by a linear layer, x is (..., I), phi and psi are the
two linear layers, s the scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def merged_input_side(W: Array, phi: Array, psi: Array, s: float) -> Array:
    """W' = W + s (W phi) psi, one scalar product at a time."""
    out, inp = W.shape
    rank = phi.shape[1]
    merged = W.copy()
    for o in range(out):
        for i in range(inp):
            merged[o, i] += s * sum((W[o] @ phi[:, r]) * psi[r, i] for r in range(rank))
    return merged


def merged_output_side(W: Array, phi: Array, psi: Array, s: float) -> Array:
    """W' = (I + s phi psi) W."""
    return (np.eye(W.shape[0]) + s * phi @ psi) @ W


def moved_bias(b: Array, phi: Array, psi: Array, s: float) -> Array:
    """b' = (I + s phi psi) b."""
    return (np.eye(len(b)) + s * phi @ psi) @ b


def convolve(x: Array, W: Array, groups: int, stride: int, padding: int) -> Array:
    """A 2-d convolution by four loops: x (C, H, W), weight (O, C / groups, kh, kw), no bias."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    out, per_group, kh, kw = W.shape
    height = (x.shape[1] - kh) // stride + 1
    width = (x.shape[2] - kw) // stride + 1
    y = np.zeros((out, height, width))
    for o in range(out):
        first = (o // (out // groups)) * per_group
        for h in range(height):
            for w in range(width):
                patch = x[first : first + per_group, h * stride : h * stride + kh, w * stride : w * stride + kw]
                y[o, h, w] = (patch * W[o]).sum()
    return y


def merged_convolution(W: Array, phi: Array, psi: Array, s: float) -> Array:
    """delta W[o, :, kh, kw] = s W[o, :, kh, kw] phi psi at every kernel position."""
    return W + s * np.einsum("oihw,ir,rj->ojhw", W, phi, psi)


def merged_convolution_output(W: Array, phi: Array, psi: Array, s: float, groups: int) -> Array:
    """W' = (I + s phi psi) W within each group of output channels."""
    out = W.shape[0] // groups
    merged = W.copy()
    for g in range(groups):
        block = slice(g * out, (g + 1) * out)
        merged[block] = np.einsum("po,oihw->pihw", np.eye(out) + s * phi @ psi, W[block])
    return merged
