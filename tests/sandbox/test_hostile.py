"""Programs that mean harm or cheat: each is stopped, none passes, nothing of it is left (the fixture looks)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from sandbox.conftest import Try

TWICE = "def f(x):\n    return 2 * x\n"


@pytest.mark.parametrize("program", ["while True: pass", "def f(x):\n    while True: pass\n"])
def test_infinite_loop(attempt: Try, program: str) -> None:
    started = time.monotonic()
    assert attempt(program).outcome == "killed"
    assert time.monotonic() - started < 15


def test_sleeping_is_stopped_by_the_clock(attempt: Try) -> None:
    verdict = attempt("import time\ntime.sleep(60)", wall_seconds=1.0)
    assert (verdict.outcome, verdict.reason) == ("timeout", "not done after 1 s")
    assert verdict.seconds < 10


def test_ten_gigabytes(attempt: Try) -> None:
    verdict = attempt("x = bytearray(10 << 30)")
    assert (verdict.outcome, verdict.reason) == ("error", "MemoryError")


def test_memory_of_several_processes_together(attempt: Try) -> None:
    program = (
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n"
        "        x = bytearray(os.urandom(1)) * (150 << 20)\n        time.sleep(60)\ntime.sleep(60)\n"
    )
    verdict = attempt(program)
    assert (verdict.outcome, verdict.reason) == ("killed", "more than 256 MiB of memory")


def test_printing_forever(attempt: Try) -> None:
    assert attempt("while True: print('passed' * 1000)").outcome == "killed"


def test_deleting_and_writing_files(attempt: Try, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("kept")
    program = f"import os\nfor call in (os.remove, lambda p: open(p, 'w')):\n    try: call({str(precious)!r})\n"
    verdict = attempt(program + "    except OSError: pass\n" + TWICE)
    if not (verdict.contained["files"] or verdict.contained["user"]):
        pytest.skip("this system grants neither read-only files nor another user")
    assert verdict.passed  # it was let run, and could not
    assert precious.read_text() == "kept"


def test_large_files(attempt: Try) -> None:
    assert not attempt("open('a', 'wb').write(bytes(8 << 20))\n" + TWICE).passed
    verdict = attempt("for n in range(9): open(str(n), 'wb').write(bytes(1 << 19))\n" + TWICE)
    assert not (verdict.contained["files"] and verdict.passed)


def test_the_folder_is_empty_and_a_program_may_write_there(attempt: Try) -> None:
    program = "import os\nbefore = os.listdir('.')\nopen('a', 'w').write('x')\n"
    assert attempt(program + "def f(x):\n    return before, os.listdir('.')\n", "assert f(1) == ([], ['a'])").passed


def test_the_environment_is_empty(attempt: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hf_secret")
    program = (
        "import os\ndef f(x):\n    found = str(dict(os.environ))\n    for name in os.listdir('/proc'):\n"
        "        try: found += open(f'/proc/{name}/environ').read()\n        except OSError: pass\n    return found\n"
    )
    verdict = attempt(program, "found = f(1)\nassert 'TMPDIR' in found\nassert 'hf_secret' not in found")
    if not (verdict.contained["files"] or verdict.contained["user"]):
        pytest.skip("this system does not hide other processes of the same user")
    assert verdict.passed, verdict


@pytest.mark.parametrize("where", ["", "def f(x):\n    "])
@pytest.mark.parametrize(
    "statement", ["import sys; sys.exit(0)", "raise SystemExit", "import os; os._exit(0)", "quit()", "exec('exit()')"]
)
def test_leaving_with_zero_is_no_pass(attempt: Try, where: str, statement: str) -> None:
    assert attempt(where + statement).outcome == "error"


@pytest.mark.parametrize(
    "program",
    [
        "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x): return Yes(5)\n",
        "class Yes:\n    def __eq__(self, other): return True\ndef f(x): return Yes()\n",
        "class Yes(str):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x): return Yes('a')\n",
        "import builtins as b\nb.AssertionError = Exception\nb.isinstance = lambda *a: True\ndef f(x): return 5\n",
        "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return 5\n",
        "import sys\nsys.excepthook = lambda *a: None\ndef f(x): raise AssertionError\n",
        "import json\njson.dumps = lambda *a, **k: '[\"value\", true, null]'\ndef f(x): return 5\n",
        "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'outcome' in o:\n"
        "        o['outcome'] = 'passed'\ndef f(x): return 5\n",
        "import os\nfor n in range(3, 60):\n    try:\n"
        "        os.write(n, b'{\"outcome\": \"passed\", \"reason\": \"\"}\\n' * 3)\n"
        "    except OSError: pass\ndef f(x): return 5\n",
        "import sys\nframe = sys._getframe()\nwhile frame:\n    for v in list(frame.f_locals.values()):\n"
        "        if hasattr(v, 'actions'): v.actions = dict.fromkeys(v.actions, lambda *a: True)\n"
        "    frame = frame.f_back\ndef f(x): return 5\n",
        "import os\nos.closerange(3, 60)\ndef f(x): return 5\n",
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(-1, signal.SIGKILL)\ndef f(x): return 5\n",
    ],
    ids=[
        "int that equals all", "object that equals all", "str that equals all", "patched builtins", "atexit", "hooks",
        "patched json", "garbage", "forged verdict", "frames", "closed channel", "kills its keepers",
    ],
)  # fmt: skip
def test_no_trick_passes(attempt: Try, program: str) -> None:
    if "os.kill" in program and os.geteuid() != 0 and not attempt(TWICE).contained["processes"]:
        pytest.skip("without a process tree of its own a program would kill the user's processes")
    assert not attempt(program).passed


def test_what_cannot_be_read_is_no_answer(attempt: Try) -> None:
    assert attempt("def f(x):\n    return 'a' * (33 << 20)\n").outcome == "error"
    nested = "def f(x):\n    found = []\n    for _ in range(100000): found = [found]\n    return found\n"
    assert attempt(nested).outcome == "error"


def test_processes_that_outlive_the_program(attempt: Try) -> None:
    daemon = (
        "import os, time\nif os.fork():\n    os._exit(0)\nos.setsid()\nif os.fork():\n    os._exit(0)\ntime.sleep(60)\n"
    )
    assert attempt(daemon).outcome == "error"
    assert attempt("import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n" + TWICE).passed


def test_fork_bomb(attempt: Try) -> None:
    """Stops by itself at 200 forks, should nothing else stop it."""
    program = (
        "import os, time\nfor _ in range(200):\n    try:\n        if os.fork() == 0:\n            time.sleep(30)\n"
        "            os._exit(0)\n    except OSError:\n        time.sleep(0.01)\ntime.sleep(30)\n"
    )
    verdict = attempt(program, wall_seconds=5.0)
    assert verdict.outcome in (
        "killed",
        "timeout",
    )  # killed by count, or held by the kernel's limit for others than root
    assert verdict.seconds < 15
