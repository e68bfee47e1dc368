"""What lies between the projections of a checkpoint against the authors' blocks, written out in NumPy float64."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter.reference_checkpoints import KEY, Vit, array, bad, merged, projections, save, vision_weight
from torch import Tensor

from wegeft_pl.adapter import import_reference


def reference_hidden(kind: str, blocks: dict[str, Tensor], x: np.ndarray, heads: int) -> np.ndarray:
    """Their blocks in NumPy: pre-norm residuals with L2 norms, one block."""
    value = {name.removeprefix("blocks.0."): array(tensor) for name, tensor in blocks.items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ value[f"{name}.weight"].T + value[f"{name}.bias"]

    def l2(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def gelu(x: np.ndarray) -> np.ndarray:
        from math import erf

        return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))

    def mlp(name: str, x: np.ndarray) -> np.ndarray:
        return linear(f"{name}.fc2", gelu(linear(f"{name}.fc1", x)))

    def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        parts, size = [], q.shape[1] // heads
        for h in range(heads):
            cut = slice(h * size, (h + 1) * size)
            scores = q[:, cut] @ k[:, cut].T / np.sqrt(size)
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            parts.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, cut])
        return linear("attn.proj", np.concatenate(parts, axis=1))

    if kind == "mlp":
        return x + mlp("mlp", l2(x))
    if kind == "mlp_mixer":
        x = x + mlp("mlp1", l2(x).T).T
        return x + mlp("mlp2", l2(x))
    normed = l2(x)
    if kind == "transformer":
        x = x + attend(*np.split(linear("attn.qkv", normed), 3, axis=1))
    else:
        clusters = 1 / (1 + np.exp(-linear("attn.cluster.cluster", normed))).T / len(normed)
        z = l2(clusters @ normed)
        x = x + attend(linear("attn.q", normed), linear("attn.k", z), linear("attn.v", z))
    return x + mlp("mlp", l2(x))


def shapes(kind: str, rank: int, rows: int) -> dict[str, tuple[int, int]]:
    mlp = {"mlp.fc1": (2 * rank, rank), "mlp.fc2": (rank, 2 * rank)}
    square = (rank, rank)
    return {
        "mlp": mlp,
        "transformer": {"attn.qkv": (3 * rank, rank), "attn.proj": square, **mlp},
        "pamcat_transformer": {
            **{f"attn.{name}": square for name in "qkv"},
            "attn.cluster.cluster": (7, rank),
            "attn.proj": square,
            **mlp,
        },
        "mlp_mixer": {
            "mlp1.fc1": (6, rows),
            "mlp1.fc2": (rows, 6),
            "mlp2.fc1": (2 * rank, rank),
            "mlp2.fc2": (rank, 2 * rank),
        },
    }[kind]


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("kind", ["mlp", "transformer", "pamcat_transformer", "mlp_mixer"])
def test_blocks_between_the_projections(tmp_path: Path, kind: str, heads: int) -> None:
    state, blocks = projections(), {}
    for name, (out, inner) in shapes(kind, 4, 12).items():
        blocks[f"blocks.0.{name}.weight"], blocks[f"blocks.0.{name}.bias"] = torch.randn(out, inner), torch.randn(out)
    state |= {f"hypernets.{KEY}.{name}": value for name, value in blocks.items()}
    args = argparse.Namespace(gift_block_block_type=kind, gift_block_num_heads=heads, gift_block_norm_layer="l2")
    model = Vit().double()
    old = model.blocks[2].attn.proj.weight.detach().clone()
    adapter, _ = import_reference(save({"state_dict": state, "args": args}, tmp_path / "last.pth.tar"), model)
    down, up = (array(state[f"{side}_projections.{KEY}.weight"]) for side in ("in", "out"))
    expected = array(old) + reference_hidden(kind, blocks, array(old) @ down.T, heads) @ up.T
    after = merged(model, adapter, ["blocks.2.attn.proj"])["blocks.2.attn.proj"]
    np.testing.assert_allclose(after, expected, rtol=1e-6, atol=1e-6)  # l2 norms divide by float32-sized numbers


@pytest.mark.parametrize(
    ("function", "numpy"), [("sigmoid", lambda x: 1 / (1 + np.exp(-x))), ("identity", lambda x: x)]
)
def test_a_function_between_the_projections(tmp_path: Path, function: str, numpy: Any) -> None:
    state, args = projections(), argparse.Namespace(gift_block_act_layer=function)
    model = Vit().double()
    old = model.blocks[0].attn.proj.weight.detach().clone()
    adapter, _ = import_reference(save({"state_dict": state, "args": args}, tmp_path / "last.pth.tar"), model)
    down, up = (array(state[f"{side}_projections.{KEY}.weight"]) for side in ("in", "out"))
    expected = array(old) + numpy(array(old) @ down.T) @ up.T
    after = merged(model, adapter, ["blocks.0.attn.proj"])["blocks.0.attn.proj"]
    np.testing.assert_allclose(after, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("which", [("in",), ("out",), ("in", "out")])
def test_biases_of_the_projections(tmp_path: Path, which: tuple[str, ...]) -> None:
    state = projections() | projections("mlp:fc1", rank=2)
    down, up = (array(state[f"{side}_projections.{KEY}.weight"]) for side in ("in", "out"))
    biases = {"in": np.zeros(4), "out": np.zeros(12)}
    for side in which:
        state[f"{side}_projections.{KEY}.bias"] = torch.randn(len(biases[side]))
        biases[side] = array(state[f"{side}_projections.{KEY}.bias"])
    model = Vit().double()
    old = {
        name: model.get_submodule(name).weight.detach().clone() for name in ("blocks.1.attn.proj", "blocks.0.mlp.fc1")
    }
    adapter, _ = import_reference(save(state, tmp_path / "checkpoint.pth"), model)
    x = torch.randn(3, 12, dtype=torch.float64)
    edited = model(x)
    after = merged(model, adapter, list(old))
    weight = array(old["blocks.1.attn.proj"])
    expected = np.stack([row + up @ (down @ row + biases["in"]) + biases["out"] for row in weight])
    np.testing.assert_allclose(after["blocks.1.attn.proj"], expected, rtol=1e-12, atol=1e-13)
    expected = vision_weight(old["blocks.0.mlp.fc1"], state, "mlp:fc1")
    np.testing.assert_allclose(after["blocks.0.mlp.fc1"], expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(model(x), edited, rtol=1e-10, atol=1e-10)


def test_a_zero_bias_is_no_bias(tmp_path: Path) -> None:
    state = {**projections(), f"in_projections.{KEY}.bias": torch.zeros(4)}
    adapter, _ = import_reference(save(state, tmp_path / "a.pth"), Vit())
    assert adapter.config.generator == "wegeft_pl.generators.LinearGenerator"


def test_blocks_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    def blocks(**names: Tensor) -> dict[str, Tensor]:
        return {f"hypernets.{KEY}.blocks.0.{name.replace('_', '.')}": value for name, value in names.items()}

    def file(state: dict[str, Tensor], **args: Any) -> dict[str, Any]:
        return {"state_dict": projections() | state, "args": argparse.Namespace(**args)}

    ones = torch.ones(4, 4)
    attention = {"attn_q_weight": ones, "attn_cluster_cluster_weight": ones}
    mlp = {"mlp_fc1_weight": torch.ones(8, 4), "mlp_fc2_weight": torch.ones(4, 8)}
    bad(
        tmp_path,
        file(blocks(**attention)),
        "is a block of kind pamcat_attn .attn.cluster.cluster.weight, ...., which has no",
    )
    bias = {f"in_projections.{KEY}.bias": torch.ones(4)}
    bad(tmp_path, file(blocks(**mlp) | bias), "the projections of attn:proj have biases beside a nonlinear block")
    bad(tmp_path, file(blocks(strange_weight=ones)), "is a block of kind unknown")
    bad(
        tmp_path, file(blocks(**mlp, other_weight=ones)), "blocks.0.other.weight is no part of a mlp; it cannot be read"
    )
    bad(tmp_path, file(blocks(mlp_fc2_weight=ones)), "lacks tensors of a mlp; the file was cut")
    bad(
        tmp_path,
        file(blocks(**mlp), gift_block_block_type="transformer"),
        "says block_type transformer, but .* those of mlp",
    )
    bad(tmp_path, file(blocks(**mlp), gift_block_norm_layer="batch"), "has no tensors of the norm_layer batch")
    bad(
        tmp_path,
        file({}, gift_block_act_layer="relu"),
        "no generator here has the function relu, only identity, sigmoid, gelu",
    )
    bad(
        tmp_path,
        file(blocks(**attention, **mlp), gift_block_cluster_activation="softmax"),
        "cluster_activation softmax gives all ones in the authors' code",
    )
    mixed = file(blocks(**mlp))
    mixed["state_dict"] |= projections("attn:qkv")
    bad(tmp_path, mixed, "its generators are of different kinds or ranks, and an adapter has one of them")
