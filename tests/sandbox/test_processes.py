from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from wegeft_pl.sandbox.processes import descendants, kill_tree, resident_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_tree_is_counted_measured_and_killed() -> None:
    code = "import os, time\nfor _ in range(2): os.fork()\nprint(flush=True)\ntime.sleep(60)"
    root = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert root.stdout is not None
    with root.stdout:
        root.stdout.readline()
        deadline = time.monotonic() + 10
        while len(living := descendants(root.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(living) == 3
        assert resident_bytes(living) > 1 << 20
        assert set(living) < set(descendants(os.getpid()))
        kill_tree(root.pid)
    assert root.wait() == -9
    assert descendants(root.pid) == []
    assert resident_bytes([root.pid]) == 0
    kill_tree(root.pid)  # what has gone already is no error
