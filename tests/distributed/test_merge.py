"""A sharded model merged without gathering it, in several processes, equals the merge of the whole model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.merge_script import Case, build
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

SCRIPT = Path(__file__).with_name("merge_script.py")


def run(root: Path, processes: int, cases: dict[str, dict[str, Any]]) -> None:
    """Runs cases, each in a folder of its own name."""
    for name in cases:
        (root / name).mkdir()
    (root / "cases.json").write_text(json.dumps([own | {"output": str(root / name)} for name, own in cases.items()]))
    command = [sys.executable, str(SCRIPT), str(root / "cases.json"), str(root / "rendezvous")]
    started = [
        subprocess.Popen(
            command,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes, "\n".join(outputs)[-4000:]


def check(folder: Path, exact: bool = False) -> dict[str, torch.Tensor]:
    """Compares weights and report with the merge in memory; returns the merged tensors."""
    expected = load_file(folder / "expected.safetensors")
    merged = {}
    for file in (folder / "merged").glob("*.safetensors"):
        merged |= load_file(file)
    assert merged.keys() == expected.keys()
    for name, tensor in merged.items():
        assert tensor.dtype == expected[name].dtype
        if exact:
            assert torch.equal(tensor, expected[name]), name
        else:
            # A product that is summed up over processes may round to the other neighbour.
            close = {"rtol": 2**-7, "atol": 1e-6} if tensor.dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(tensor, expected[name], **close)
            assert (tensor != expected[name]).float().mean() < 0.02 or tensor.dtype != torch.bfloat16
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("report_*.json"))]
    reports.append(json.loads((folder / "merged" / "report.json").read_text()))
    wanted = json.loads((folder / "expected.json").read_text())
    for report in reports:
        assert [row["name"] for row in report["layers"]] == [row["name"] for row in wanted["layers"]]
        for row, other in zip(report["layers"], wanted["layers"], strict=True):
            assert row["relative_change"] == pytest.approx(other["relative_change"], rel=1e-4)
            assert row["changed"] == pytest.approx(other["changed"], abs=0.02)
            assert row["rounding_loss"] == pytest.approx(other["rounding_loss"], rel=0.02, abs=1e-6)
    assert reports[0]["base"].split("-")[1] == wanted["base"].split("-")[1]
    return merged


def test_two_processes(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        f"{model}_{side}": {"model": model, "adapter": {"side": side}}
        for model in ("llama", "gpt2")
        for side in ("input", "output")
    }
    cases |= {
        "files": {"file_bytes": 3000, "times": 2},
        "float32": {"dtype": "float32", "adapter": {"sharing": "layer", "also_train": ["norm"]}},
        "trained": {"adapter": {"targets": ["q_proj"], "also_train": ["norm", "lm_head"]}, "base": True},
        "tied": {
            "adapter": {"targets": ["q_proj"], "also_train": ["lm_head"]},
            "config": {"tie_word_embeddings": True},
        },
        "squared": {"adapter": {"squared": True}, "base_dtype": "float32"},
        "replicas": {"mesh": [2, 1], "adapter": {"side": "output"}},
        "experts": {"model": "mixtral"},
        "experts_output": {"model": "mixtral", "adapter": {"side": "output", "targets": ["gate_up_proj", "down_proj"]}},
        "parts": {"model": "gpt2", "adapter": {"targets": ["c_attn.q", "c_attn.v", "c_fc"]}},
        "parts_output": {"model": "gpt2", "adapter": {"targets": ["c_attn.q", "c_attn.v"], "side": "output"}},
        "expert_parts": {"model": "mixtral", "adapter": {"targets": ["gate_up_proj.up", "gate_up_proj.gate"]}},
        "full_0": {"fails_on": 0},
        "full_1": {"fails_on": 1},
    }
    run(tmp_path, 2, cases)
    check(tmp_path / "llama_input", exact=True)
    check(tmp_path / "llama_output")
    check(tmp_path / "gpt2_input")
    moved = check(tmp_path / "gpt2_output")
    build(Case("", model="gpt2")).save_pretrained(tmp_path / "gpt2")
    assert moved.keys() == load_file(tmp_path / "gpt2" / "model.safetensors").keys()
    (tmp_path / "gpt2_output" / "merged" / "config.json").write_bytes((tmp_path / "gpt2" / "config.json").read_bytes())
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2_output" / "merged").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in moved.items())
    check(tmp_path / "files", exact=True)
    index = json.loads((tmp_path / "files" / "merged" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {p.name for p in (tmp_path / "files" / "merged").glob("*.safetensors")}
    assert len(set(index["weight_map"].values())) > 3
    assert {tensor.dtype for tensor in check(tmp_path / "float32").values()} == {torch.float32}
    assert {tensor.dtype for tensor in check(tmp_path / "trained", exact=True).values()} == {torch.bfloat16}
    assert "lm_head.weight" not in check(tmp_path / "tied", exact=True)
    check(tmp_path / "squared")
    for name in ("experts", "experts_output", "parts", "parts_output", "expert_parts"):
        check(tmp_path / name)
    check(tmp_path / "replicas")
    for rank in (0, 1):
        folder = tmp_path / f"full_{rank}"
        errors = {path.read_text() for path in folder.glob("error_*.txt")}
        assert len(list(folder.glob("error_*.txt"))) == 2
        expected = f"could not write the merged model to {folder / 'merged'}: process {rank} of 2: OSError: [Errno 28] "
        assert errors == {expected + "No space left on device"}
        assert not (folder / "merged").exists()
        assert not list(folder.glob(".*"))
    assert len(load_file(tmp_path / "llama_input" / "merged" / "model.safetensors")) == 21


@pytest.mark.slow
def test_four_processes_with_copies_and_with_fewer_rows_than_processes(tmp_path: Path) -> None:
    few = {"num_key_value_heads": 1, "head_dim": 2}
    cases = {
        "copies": {"mesh": [2, 2], "adapter": {"side": "output", "also_train": ["norm"]}},
        "few": {"config": few, "adapter": {"rank": 1}},
        "few_output": {"config": few, "adapter": {"rank": 1, "side": "output", "sharing": "layer"}},
    }
    run(tmp_path, 4, cases)
    check(tmp_path / "copies")
    check(tmp_path / "few", exact=True)
    check(tmp_path / "few_output")


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    config = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "vocab_size": 32000}
    config |= {"num_attention_heads": 8}
    cases = {side: {"measure": True, "config": config, "adapter": {"side": side}} for side in ("input", "output")}
    run(tmp_path, 2, cases)  # type: ignore[arg-type]
    for side in cases:
        for rank in (0, 1):
            numbers = json.loads((tmp_path / side / f"memory_{rank}.json").read_text())
            assert numbers["held"] > 120 * 2**20
            assert numbers["peak"] - numbers["loaded"] < 64 * 2**20, numbers
