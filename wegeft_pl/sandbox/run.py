"""Runs programs under test: two fresh interpreters for each, limits on both, nothing left of either."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, get_args

from wegeft_pl.sandbox.limits import Limits
from wegeft_pl.sandbox.processes import descendants, kill_tree, resident_bytes
from wegeft_pl.sandbox.trial import Outcome, Trial, Verdict

_FOLDER = Path(__file__).parent
#: How often the processes of a program are counted and measured.
_SECONDS_BETWEEN_LOOKS = 0.02
#: How long the keeper of a program that has ended may take to say how.
_SECONDS_TO_SAY_HOW = 1.0
#: The keeper and the first process of the program's tree, and what they may hold.
_NUM_OWN, _OWN_BYTES = 2, 64 << 20


def run_trial(trial: Trial, limits: Limits) -> Verdict:
    """Runs one program against its tests.

    The tests run in one process and the program in another; the verdict comes from the tests' process, through a pipe
    that the program does not have. So the program passes by right answers only: exiting with 0, printing a verdict,
    patching builtins or an ``__eq__`` that always agrees is no pass. It is containment against accidents and cheap
    tricks and no security boundary: a program that attacks the kernel, or reads files that this user may read, is not
    stopped. What the system granted stands in the verdict.

    Args:
        trial: the program and its tests.
        limits: what it may use.

    Returns:
        The verdict; a fault of the program is never an exception here.

    Raises:
        OSError: this is no POSIX system, or it starts no more processes.
    """
    if os.name != "posix":
        raise OSError("programs are run under limits on Linux and other POSIX systems only; score elsewhere")
    started = time.monotonic()
    workdir = tempfile.mkdtemp(prefix="wegeft-trial-")
    try:
        lines, stopped_by, exit_code = _run(trial, limits, workdir, started + limits.wall_seconds)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    seconds = time.monotonic() - started
    contained = lines[0] if lines else {}
    if stopped_by is not None:
        return Verdict(*stopped_by, seconds, contained)
    found = lines[1] if len(lines) == 2 else {}
    if found.get("outcome") in get_args(Outcome):
        return Verdict(found["outcome"], found["reason"], seconds, contained)
    return Verdict(*_explain(bool(found), exit_code), seconds, contained)


def run_trials(trials: Sequence[Trial], limits: Limits, num_workers: int | None = None) -> list[Verdict]:
    """Runs programs side by side.

    Args:
        trials: programs and their tests.
        limits: of each.
        num_workers: how many at a time; null: one for every processor that this process may use.

    Returns:
        The verdicts, in the order of the trials.
    """
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with ThreadPoolExecutor(num_workers) as pool:
        return list(pool.map(lambda trial: run_trial(trial, limits), trials))


def _run(
    trial: Trial, limits: Limits, workdir: str, deadline: float
) -> tuple[list[Any], tuple[Outcome, str] | None, int]:
    """Starts both processes, waits, and kills both: the judge's lines, what stopped it, how the program ended."""
    judges_end, programs_end = socket.socketpair()
    verdict_read, verdict_write = os.pipe()
    for_child = json.dumps(limits.for_child())
    processes: list[subprocess.Popen[bytes]] = []
    patience = 0.0
    with judges_end, programs_end, open(verdict_read, "rb") as pipe:
        try:
            with open(verdict_write, "wb"):
                arguments = [str(programs_end.fileno()), workdir, for_child]
                processes.append(_start("worker.py", arguments, [programs_end.fileno()], workdir, None))
                arguments = [str(judges_end.fileno()), str(verdict_write), for_child]
                passed = [judges_end.fileno(), verdict_write]
                processes.append(_start("judge.py", arguments, passed, workdir, subprocess.PIPE))
            judges_end.close()
            programs_end.close()
            worker, judge = processes
            assert judge.stdin is not None
            with judge.stdin:
                _write(judge.stdin, json.dumps(vars(trial)).encode())
            data, stopped_by = _wait(pipe, worker.pid, limits, deadline)
            patience = _SECONDS_TO_SAY_HOW if stopped_by is None and b'"gone"' in data else 0.0
        finally:
            exit_codes = [_end(process, patience) for process in processes]
    whole = data[: data.rfind(b"\n") + 1]  # a judge that was killed in the middle of a line has not judged
    return [json.loads(line) for line in whole.splitlines()], stopped_by, exit_codes[0]


def _start(
    script: str, arguments: list[str], passed: list[int], workdir: str, stdin: int | None
) -> subprocess.Popen[bytes]:
    # Threads of numerical libraries would count as processes.
    quiet = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {"PATH": os.defpath, "HOME": workdir, "TMPDIR": workdir, "LANG": "C.UTF-8", **quiet}
    return subprocess.Popen(
        [sys.executable, "-I", "-B", str(_FOLDER / script), *arguments],
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.DEVNULL,  # a program that prints forever fills nothing
        stderr=subprocess.DEVNULL,
        pass_fds=passed,
        cwd=workdir,
        env=environment,
        start_new_session=True,
    )


def _write(stream: IO[bytes], data: bytes) -> None:
    with suppress(BrokenPipeError):  # the judge has died; the missing verdict says so
        stream.write(data)
        stream.flush()


def _wait(pipe: IO[bytes], worker: int, limits: Limits, deadline: float) -> tuple[bytes, tuple[Outcome, str] | None]:
    """Collects the judge's line until it is whole, watching the program meanwhile."""
    data = b""
    most_bytes = (limits.memory_mib << 20) + _OWN_BYTES
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if selector.select(min(left, _SECONDS_BETWEEN_LOOKS)):
                part = os.read(pipe.fileno(), 1 << 16)
                if not part:
                    return data, None
                data += part
                continue
            living = descendants(worker)
            if len(living) > limits.num_processes + _NUM_OWN:  # for root the kernel's own limit does not hold
                return data, ("killed", f"more than {limits.num_processes} processes")
            if resident_bytes(living) > most_bytes:
                return data, ("killed", f"more than {limits.memory_mib} MiB of memory")
    return data, ("timeout", f"not done after {limits.wall_seconds:g} s")


def _end(process: subprocess.Popen[bytes], patience_seconds: float) -> int:
    """Ends a process and all it has started; its exit status, where it was about to end by itself."""
    try:
        process.wait(patience_seconds)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
    return process.wait()


def _explain(is_judged: bool, exit_code: int) -> tuple[Outcome, str]:
    """Says why there is no verdict: the program's process has gone, or the judge's."""
    if not is_judged:
        return "killed", "the tests' own process ended without a verdict (out of time or memory by what it was sent)"
    if exit_code == 128 + signal.SIGXCPU or exit_code == 128 + signal.SIGKILL:
        return "killed", "stopped by a limit on processor time or by the system"
    return "error", f"the program ended before its tests did (exit status {exit_code})"
