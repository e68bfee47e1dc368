"""What is sent and gathered, against counts by hand and against what real processes send."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.accounting.communication import Piece, Unit, ddp_step, fsdp_step, gathered_bytes, units_of
from wegeft_pl.backbones import huggingface
from wegeft_pl.distributed import blocks_of

ROOT = Path(__file__).resolve().parents[2]
#: The tiny Llama of conftest.py, in numbers: width 16, 24 inside, 4 heads of 4, 2 of keys, 47 tokens, 2 blocks.
BLOCK = {"q": (16, 16), "k": (8, 16), "v": (8, 16), "o": (16, 16), "gate": (24, 16), "up": (24, 16), "down": (16, 24)}
SIZES = [*BLOCK.values(), (16,), (16,)]
OUTSIDE = [(47, 16), (47, 16), (16,)]


def padded(shapes: list[tuple[int, ...]], shards: int) -> int:
    """Bytes in float32, each first axis rounded up to a multiple of ``shards``."""
    return sum(4 * math.ceil(shape[0] / shards) * shards * math.prod(shape[1:]) for shape in shapes)


def units(llama: LlamaForCausalLM, sharing: str) -> list[Unit]:
    inject(llama, AdapterConfig(["q_proj", "down_proj"], rank=3, sharing=sharing))
    return units_of(llama, blocks_of(llama))


@pytest.mark.parametrize("shards", [2, 3, 8])
@pytest.mark.parametrize("sharing", ["type", "layer"])
def test_against_the_shapes_written_out(llama: LlamaForCausalLM, sharing: str, shards: int) -> None:
    adapter = [(16, 3), (3, 16), (24, 3), (3, 24)]
    root = padded(OUTSIDE + (adapter if sharing == "type" else []), shards)
    block = padded(SIZES + (adapter if sharing == "layer" else []), shards)
    copies = 1 if sharing == "type" else 2
    found = units(llama, sharing)
    assert [unit.name for unit in found] == ["", "model.layers.0", "model.layers.1"]
    for micro_batches in (1, 3):
        for passes in (1, 2):
            sent = fsdp_step(found, shards, micro_batches=micro_batches, reshard_after_forward=passes == 2)
            assert sent.all_gathers == micro_batches * (1 + 2 * passes)
            assert sent.all_gather_bytes == micro_batches * (root + 2 * passes * block)
            assert (sent.reduce_scatters, sent.all_reduces) == (copies, 0)
            assert sent.reduce_scatter_bytes == copies * padded(adapter, shards)
            total = sent.all_gather_bytes + sent.reduce_scatter_bytes
            assert sent.received == total * (shards - 1) // shards
    assert len(sent.to_dict()) == 7


def test_replicas_reduce_what_is_left_of_the_gradients(llama: LlamaForCausalLM) -> None:
    found = units(llama, "layer")
    alone, both = fsdp_step(found, 4), fsdp_step(found, 4, replicas=3)
    assert (both.all_gather_bytes, both.reduce_scatter_bytes) == (alone.all_gather_bytes, alone.reduce_scatter_bytes)
    assert (both.all_reduces, both.all_reduce_bytes) == (2, alone.reduce_scatter_bytes // 4)
    assert both.received - alone.received == 2 * both.all_reduce_bytes * 2 // 3
    only_copies = fsdp_step(found, 1, replicas=2)
    assert (only_copies.all_gathers, only_copies.reduce_scatters, only_copies.all_reduces) == (0, 0, 2)
    assert only_copies.all_reduce_bytes == sum(p.nbytes for p in llama.parameters() if p.requires_grad)


def test_plain_data_parallelism_sends_the_trained_gradients(llama: LlamaForCausalLM) -> None:
    found = units(llama, "type")
    trained = sum(p.nbytes for p in llama.parameters() if p.requires_grad)
    assert ddp_step(found, 4).all_reduce_bytes == trained
    assert ddp_step(found, 4).received == 2 * trained * 3 // 4
    for alone in (ddp_step(found, 1), fsdp_step(found, 1)):
        assert set(alone.to_dict().values()) == {0}


def test_a_tied_parameter_and_scalars_count_once() -> None:
    block = nn.Linear(3, 5, bias=False, dtype=torch.bfloat16)
    model = nn.ModuleDict({"block": block, "first": nn.Embedding(7, 3), "last": nn.Linear(3, 7, bias=False)})
    model["last"].weight = model["first"].weight
    model["scale"] = nn.ParameterDict({"scale": nn.Parameter(torch.tensor(1.0), requires_grad=False)})  # type: ignore[assignment]
    found = units_of(model, {"block": block})
    assert found == [Unit("", (Piece(7, 12, True), Piece(1, 4, False))), Unit("block", (Piece(5, 6, True),))]
    assert [unit.gathered(2) for unit in found] == [8 * 12 + 2 * 4, 6 * 6]
    assert [unit.reduced(2) for unit in found] == [8 * 12, 6 * 6]


def test_the_largest_shipped_model_has_its_published_size() -> None:
    model = huggingface.load("llama3_70b", causal_lm=True, dtype="bfloat16", meta=True)
    found = units_of(model, blocks_of(model))
    assert sum(unit.gathered(1) for unit in found) == 2 * 70_553_706_496


def test_what_is_gathered_at_the_peak() -> None:
    small_root = [Unit("", (Piece(8, 1, False), Piece(2, 2, True)))]
    blocks = [Unit(str(n), (Piece(100, 1, False), Piece(4, 1, True))) for n in range(3)]
    found = small_root + blocks
    assert gathered_bytes(found, 2) == 12 + 2 * 104 + (4 + 2 * 4)
    assert gathered_bytes(found, 2, micro_batches=2) == 12 + 2 * 104 + (4 + 3 * 4)
    assert gathered_bytes(found, 2, reshard_after_forward=False) == 12 + 4 * 104 + (4 + 2 * 4)
    assert gathered_bytes(found, 1) == 12 + 104 + (4 + 2 * 4)
    large_root = [Unit("", (Piece(1000, 1, False),))] + blocks
    assert gathered_bytes(large_root, 2) == 2 * 1000 + 104
    assert gathered_bytes(large_root, 2, activations=10_000) == 1000 + 2 * 104 + 2 * 4


def counted(processes: int, *cases: str) -> list[dict[str, Any]]:
    """What benchmarks/scaling.py counts in real fits, beside what it predicts."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PL_", "SLURM", "RANK"))}
    result = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/scaling.py"), "--json", "--processes", str(processes)]
        + (["--cases", *cases] if cases else []),
        capture_output=True,
        text=True,
        timeout=900,
        env=environment | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


@pytest.mark.slow
def test_two_processes_send_and_hold_what_the_formulae_say() -> None:
    rows = counted(2)
    assert len(rows) == 13
    for row in rows:
        predicted, seen = row["predicted"], row["counted"]
        assert row["same_on_all"], row
        if row["case"].startswith("ddp"):
            assert seen["calls"].pop("allreduce") > 0
            assert predicted["calls"].pop("allreduce") is None
        for exact in ("calls", "bytes", "weights", "gradients", "optimizer"):
            assert seen[exact] == predicted[exact], (row["case"], exact)
        # The parts of the peak do not all come at the same moment.
        assert 0.8 * predicted["transient_peak"] < seen["transient_peak"] <= predicted["transient_peak"], row
    sharded = {row["case"]: row["counted"]["calls"] for row in rows}
    assert sharded["type"] == {"allgather_base": 9, "reduce_scatter_base": 1, "allreduce": 0}
    assert sharded["layer, checkpointing"] == {"allgather_base": 9, "reduce_scatter_base": 4, "allreduce": 0}
