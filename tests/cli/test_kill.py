"""Killed by SIGKILL at any moment and resumed, a run is bit for bit the run that was never killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("kill_driver.py")
#: The moments inside a write of a checkpoint and around it.
WRITING = {
    "before writing",
    "half written",
    "written, not synced",
    "before renaming",
    "best renamed, last not",
    "last renamed",
    "before removing an old one",
    "an old one removed",
}


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM", "RANK"))}
    command = [sys.executable, str(DRIVER), str(tmp_path), "1", "10"]
    variables |= {"PYTHONPATH": str(DRIVER.parents[1]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["problems"] == []
    assert len(result["kills"]) >= 20, result["kills"]
    assert result["codes"] == [143, 138, 130, 0]
    assert result["steps"] == [2, 4, 9]
    assert {kill.rsplit(" ", 1)[0] for kill in result["kills"]} >= WRITING
