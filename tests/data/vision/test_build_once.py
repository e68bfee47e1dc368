"""A folder built once: by several processes, after a kill, after an error."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from wegeft_pl.data.vision import build_once as module
from wegeft_pl.data.vision.build_once import build_once

SCRIPT = """
import importlib.util, os, signal, sys, time
spec = importlib.util.spec_from_file_location("build_once", {file!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pathlib import Path

def build(target):
    with open({log!r}, "a") as log:
        log.write("built\\n")
    (target / "half").write_text("1")
    if {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    (target / "whole").write_text("2")

print(sorted(item.name for item in module.build_once(Path({folder!r}), build).iterdir()))
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process that builds the folder `kept/key`, and perhaps is killed while it does."""

    def start(kill=False):
        places = {"file": module.__file__, "log": str(tmp_path / "log"), "folder": str(tmp_path / "kept" / "key")}
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(kill=kill, **places)], stdout=subprocess.PIPE, text=True
        )

    return start


def test_the_first_process_builds_and_the_others_wait(start, tmp_path):
    processes = [start() for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == ["['half', 'whole']"] * 3
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_kill_leaves_nothing_that_is_taken_for_whole(start, tmp_path):
    killed = start(kill=True)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert [item.suffix for item in sorted((tmp_path / "kept").iterdir())] == [".partial", ".lock"]
    assert start().communicate()[0].strip() == "['half', 'whole']"
    assert sorted(item.name for item in (tmp_path / "kept").iterdir()) == ["key", "key.lock"]


def test_an_error_leaves_no_folder(tmp_path):
    def fail(target):
        (target / "half").write_text("1")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        build_once(tmp_path / "key", fail)
    assert [item.name for item in tmp_path.iterdir()] == ["key.lock"]


def test_what_is_there_is_not_built_again(tmp_path):
    (tmp_path / "key").mkdir()
    assert build_once(tmp_path / "key", lambda target: pytest.fail("built again")) == tmp_path / "key"


def test_a_folder_is_moved_to_its_place_whole(tmp_path):
    numbers = []
    folder = build_once(tmp_path / "key", lambda target: numbers.append(target.stat().st_ino))
    assert folder.stat().st_ino == numbers[0]
