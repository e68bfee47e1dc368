"""A second process is kept out of a run folder, until the first one has ended in whatever way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wegeft_pl.cli.failure import UsageError
from wegeft_pl.cli.folder_lock import hold

HOLDER = """
import sys, time, pathlib
from wegeft_pl.cli.folder_lock import hold
hold(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=r"another process is at work in .*; wait for its end, or choose another"):
            hold(tmp_path)
        holder.kill()
    hold(tmp_path)
    hold(tmp_path)  # the same process may go on in its own folder
