"""Two processes train the head that one trains, and count every image once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from wegeft_pl.losses import classification_loss
from wegeft_pl.tasks.classification_evaluation import ClassificationEvaluation, Classified

SCRIPT = Path(__file__).with_name("classification_script.py")


def run(devices: int, output: Path) -> dict[str, Any]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PL_", "PYTEST", "SLURM", "RANK"))
    }
    paths = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(devices), str(output)],
        env=kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
def test_a_linear_probe_on_two_processes_equals_one(tmp_path: Path) -> None:
    one, two = run(1, tmp_path / "one.json"), run(2, tmp_path / "two.json")
    assert two["start"] == one["start"]
    assert two["bias"] == pytest.approx(one["bias"], rel=1e-4, abs=1e-6)
    assert two["confusion"] == one["confusion"]
    assert sum(map(sum, two["confusion"])) == 7
    assert two["scores"] == pytest.approx(one["scores"], rel=1e-4)


def _evaluate(rank: int, file: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    for num_classes in (2, 9, 1):
        _evaluate_one(rank, num_classes)
    dist.destroy_process_group()


def _evaluate_one(rank: int, num_classes: int) -> None:
    values = torch.tensor([0.5, 2.0, 1.0])
    rows = {0: [0, 1, 2], 1: []}[rank]
    if num_classes > 1:
        logits, labels = torch.eye(num_classes)[[0, 1, 1]][rows], torch.tensor([0, 1, 0])[rows]
    else:
        logits, labels = values[rows, None], torch.tensor([1.0, 3.0, 1.5])[rows]
    result = Classified(logits, labels, rows, [""] * len(rows))
    evaluation = ClassificationEvaluation(lambda batch: result, classification_loss, num_classes, None)
    if rank == 0:
        evaluation.update({})
    scores = evaluation.compute()
    if num_classes > 1:
        assert scores["accuracy"] == 2 / 3, scores
    else:
        assert abs(scores["pearson"] - 0.99587) < 1e-5, scores
        assert abs(scores["loss"] - (0.25 + 1 + 0.25) / 3) < 1e-6, scores


@pytest.mark.slow
def test_a_rank_without_rows_takes_part(tmp_path: Path) -> None:
    processes.spawn(_evaluate, args=(str(tmp_path / "rendezvous"),), nprocs=2)
