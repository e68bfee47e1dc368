"""A run that goes on with another number of processes equals one that never changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

SCRIPT = Path(__file__).with_name("resume_script.py")


def part(processes: int, batch_size: int, steps: int, model: Path, data: Path, root: Path, strategy: str) -> str:
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PL_", "PYTEST", "SLURM", "RANK"))
    }
    arguments = [str(processes), strategy, str(batch_size), str(steps), str(model), str(data), str(root)]
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stderr


def saved(root: Path) -> dict[str, Any]:
    return torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.slow
def test_one_two_and_one_processes_equal_one(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    texts = [{"question": f"{n}+{n * n}", "answer": f"{n}+{n * n}={n + n * n}\n#### {n + n * n}"} for n in range(17)]
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    part(1, 4, 11, folder, data, whole, "auto")
    # 17 rows make batches of 4, 4, 4, 4 and 1: two processes share the last row out as one and none.
    part(1, 4, 2, folder, data, parts, "auto")
    said = part(2, 2, 7, folder, data, parts, "ddp")
    assert said.count("random states of 1 processes go on in 2") == 1
    assert "global batch" not in said
    assert len(saved(parts)["wegeft_pl"]["random"]) == 2
    part(1, 4, 11, folder, data, parts, "auto")
    first: dict[str, Tensor] = saved(whole)["state_dict"]
    second: dict[str, Tensor] = saved(parts)["state_dict"]
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-6, atol=1e-7)
    assert saved(whole)["GSM8KDataModule"] == saved(parts)["GSM8KDataModule"]
    assert saved(whole)["lr_schedulers"] == saved(parts)["lr_schedulers"]
