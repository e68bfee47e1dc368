"""All callbacks in a run of two processes: one file of each kind, no repeats, sums over both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wegeft_pl.adapter.storage import read_json

SCRIPT = Path(__file__).resolve().parents[1] / "two_ranks.py"


@pytest.mark.slow
def test_two_ranks_write_one_run(folder: Path, root: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(root)],
        env=variables | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    content = read_json(root / "run.json")
    assert content["steps"] == 4
    assert content["versions"]["devices"] == 2
    assert set(content["metrics"]) == {"before", "after", "val"}
    assert content["throughput"]["padding_share"] == pytest.approx(3 / 48)
    for name in ("before", "after", "val-step4"):
        lines = (root / "predictions" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["id"] for line in lines] == list(range(8))
    for file in ("adapter/adapter.safetensors", "merged/model.safetensors", "checkpoints/last.ckpt"):
        assert (root / file).exists()
    assert not list(root.rglob(".*"))
    assert run.stdout.count("fit finished") == 1
    assert run.stdout.count("before: exact_match") == 1
