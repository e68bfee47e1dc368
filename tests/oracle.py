"""METHOD.md's equations once more, in NumPy float64 and the plainest form, to hold the project's code against.

Nothing here is shared with the package: W is (O, I) as stored by a linear layer, x is (..., I), phi and psi are the
two linear layers, s the scale.
"""

from __future__ import annotations

import math

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


def unit(x: Array) -> Array:
    """Every row divided by its length; a zero row stays."""
    return np.stack([row / np.sqrt((row**2).sum()) if row.any() else row for row in x])


def normed(x: Array, norm: str, p: dict[str, Array]) -> Array:
    """The norm before a branch: l2, layer (gain, shift, variance over n, 1e-5) or none."""
    if norm == "none":
        return x
    if norm == "l2":
        return unit(x)
    rows = [(row - row.mean()) / np.sqrt(((row - row.mean()) ** 2).mean() + 1e-5) for row in x]
    return np.stack(rows) * p["norm.weight"] + p["norm.bias"]


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)."""
    return 1 / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    """x times the normal distribution function at x."""
    return x * np.vectorize(lambda value: (1 + math.erf(value / math.sqrt(2))) / 2)(x)


def softmax(x: Array) -> Array:
    """e^x over its sum, for one vector."""
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def affine(x: Array, p: dict[str, Array], name: str) -> Array:
    """A x + a for every row x, as a linear layer stores them; a may be absent."""
    return np.stack([p[f"{name}.weight"] @ row + p.get(f"{name}.bias", 0.0) for row in x])


def two_layers(x: Array, p: dict[str, Array], first: str, second: str) -> Array:
    """An MLP with GELU between its two layers, for every row."""
    return affine(gelu(affine(x, p, first)), p, second)


def attention(q: Array, k: Array, v: Array, heads: int) -> Array:
    """softmax(Q K^T / sqrt(channels of a head)) V, one query and one head at a time."""
    y, size = np.zeros_like(q), q.shape[1] // heads
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        for o in range(len(q)):
            weights = softmax(k[:, part] @ q[o, part] / np.sqrt(size))
            y[o, part] = sum(weights[m] * v[m, part] for m in range(len(k)))
    return y


def self_attention(x: Array, p: dict[str, Array], heads: int) -> Array:
    """Attention among all rows; queries, keys and values are the thirds of one layer."""
    q, k, v = np.split(affine(x, p, "qkv"), 3, axis=1)
    return affine(attention(q, k, v, heads), p, "out")


def cluster_assignment(x: Array, p: dict[str, Array], assignment: str) -> Array:
    """C (M, O): sigmoid / O, or a softmax over the O tokens for each cluster."""
    logits = affine(x, p, "cluster")
    if assignment == "sigmoid":
        return sigmoid(logits).T / len(x)
    return np.stack([softmax(column) for column in logits.T])


def paca(x: Array, p: dict[str, Array], heads: int, assignment: str) -> Array:
    """Z = l2norm(C x); attention of every row to the rows of Z."""
    z = unit(cluster_assignment(x, p, assignment) @ x)
    return affine(attention(affine(x, p, "query"), affine(z, p, "key"), affine(z, p, "value"), heads), p, "out")


def under(p: dict[str, Array], prefix: str) -> dict[str, Array]:
    """The parameters below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in p.items() if name.startswith(prefix)}


def blocks(
    x: Array, p: dict[str, Array], kind: str, depth: int, norm: str, heads: int = 1, assignment: str = "sigmoid"
) -> Array:
    """x += tokens(norm(x)) (mixer, transformer, paca), then x += MLP(norm(x)), depth times."""
    for d in range(depth):
        tokens, channels = under(p, f"blocks.{d}.tokens."), under(p, f"blocks.{d}.channels.")
        y, branch = normed(x, norm, tokens) if tokens or kind != "mlp" else x, under(tokens, "branch.")
        if kind == "mixer":
            x = x + two_layers(y.T, branch, "down", "up").T
        elif kind == "transformer":
            x = x + self_attention(y, branch, heads)
        elif kind == "paca":
            x = x + paca(y, branch, heads, assignment)
        x = x + two_layers(normed(x, norm, channels), under(channels, "branch."), "up", "down")
    return x


def gift_changes(weights: Array, p: dict[str, Array], depth: int) -> Array:
    """GIFT v1 on stacked layers (L, O, I) as one batch, sigmoid clusters, one head: the changes (L, O, I)."""

    def unit_rows(x: Array) -> Array:
        return x / np.sqrt(np.einsum("lor,lor->lo", x, x))[..., None]

    def layer(x: Array, name: str) -> Array:
        return np.einsum("lor,sr->los", x, p[f"{name}.weight"]) + p[f"{name}.bias"]

    x = np.einsum("loi,id->lod", weights, p["phi"]) + p["positions"]
    for d in range(depth):
        name, y = f"blocks.{d}.tokens.branch", unit_rows(x)
        c = sigmoid(layer(y, f"{name}.cluster")) / x.shape[1]
        z = unit_rows(np.einsum("lom,lod->lmd", c, y))
        q, k, v = layer(y, f"{name}.query"), layer(z, f"{name}.key"), layer(z, f"{name}.value")
        logits = np.exp(np.einsum("lod,lmd->lom", q, k) / np.sqrt(q.shape[-1]))
        attended = np.einsum("lom,lmd->lod", logits / logits.sum(axis=2, keepdims=True), v)
        x = x + layer(attended, f"{name}.out")
        name = f"blocks.{d}.channels.branch"
        x = x + layer(gelu(layer(unit_rows(x), f"{name}.up")), f"{name}.down")
    return np.einsum("lod,di->loi", x, p["psi"]) + p.get("bias", 0.0)
