"""Two processes with gloo: the gradient of a step and the score of a test set are those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROWS = [
    ("tom has 3 pens and buys 4", "3+4=7\n#### 7"),
    ("ann had 9 figs and ate 2 of them on monday", "9-2=7\n#### 7"),
    ("two plus two", "#### 4"),
    ("a box holds 5 balls. how many do 6 boxes hold", "5+5=10\n10+20=30\n#### 30"),
]


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))


def run(devices: int, llama: Path, data: Path, output: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("ddp_script.py")
    command = [sys.executable, str(script), str(devices), str(llama), str(data), str(output)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PL_", "SLURM", "RANK"))}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.mark.slow
def test_two_processes_equal_one(llama_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write(data / "train.jsonl", ROWS)
    write(data / "test.jsonl", [*ROWS, ("six", "#### 6")])  # five rows do not divide by two processes
    one = run(1, llama_folder, data, tmp_path / "one.json")
    two = run(2, llama_folder, data, tmp_path / "two.json")
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-5)
    assert two["sums"] == pytest.approx(one["sums"], rel=1e-4, abs=1e-6)
    assert two["scores"] == pytest.approx(one["scores"], rel=1e-5)


@pytest.mark.slow
def test_a_rank_without_samples_does_not_hang_the_others(tmp_path: Path) -> None:
    script = Path(__file__).with_name("evaluation_script.py")
    command = [sys.executable, str(script)]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path / "rendezvous")]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
