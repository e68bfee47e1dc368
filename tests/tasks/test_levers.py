"""Memory levers under data parallelism, sharded or not: two processes give the gradients of one without any lever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import llama_config
from small_run import save_llama
from tasks.levers_script import main
from transformers import LlamaForCausalLM

from wegeft_pl.backbones.quantized import PACKAGES


def run_two(strategy: str, folder: Path, fields: dict[str, Any], output: Path) -> list[torch.Tensor]:
    script = Path(__file__).with_name("levers_script.py")
    command = [sys.executable, str(script), strategy, str(folder), json.dumps(fields), str(output)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PL_", "SLURM", "RANK"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return read(output)


def read(output: Path) -> list[torch.Tensor]:
    return [torch.tensor(values, dtype=torch.float64) for values in json.loads(output.read_text())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "fields"),
    [
        ("ddp", {"gradient_checkpointing": True, "activation_offload": True}),
        ("wegeft_fsdp", {"gradient_checkpointing": True, "activation_offload": True}),
        ("wegeft_fsdp", {"activation_offload": True}),
        ("ddp", {"quantize": "bnb-nf4", "dtype": "float32", "gradient_checkpointing": True}),
        ("ddp", {"quantize": "torchao-int8", "dtype": "float32", "gradient_checkpointing": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_two_processes_equal_one_without_levers(tmp_path: Path, strategy: str, fields: dict[str, Any]) -> None:
    scheme = fields.get("quantize")
    if scheme is not None:
        package = PACKAGES[scheme.partition("-")[0]][0]
        pytest.importorskip(package, reason=f"{scheme} needs {package}", exc_type=ImportError)
    torch.manual_seed(0)
    folder = save_llama(LlamaForCausalLM(llama_config(hidden_size=64, intermediate_size=128)), tmp_path / "wide")
    without = {name: value for name, value in fields.items() if name in ("quantize", "dtype")}
    with warnings.catch_warnings():
        main("auto", str(folder), without, tmp_path / "one.json")
    one, two = read(tmp_path / "one.json"), run_two(strategy, folder, fields, tmp_path / "two.json")
    assert len(one) == len(two) > 0
    for found, expected in zip(two, one, strict=True):
        assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())
    assert max(float(gradient.norm()) for gradient in one) > 1e-3
