"""Whether two LaTeX answers are equal in value, judged by math-verify in a process that may be stopped at any time."""

from __future__ import annotations

import atexit
import json
import queue
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from wegeft_pl.metrics.boxed import same_latex

_START_SECONDS = 120.0


def has_math_verify() -> bool:
    """Whether math-verify is installed (the extra ``math``)."""
    return find_spec("math_verify") is not None


class MathJudge:
    """Asks math-verify about pairs of answers, one after the other, and never waits longer than a limit.

    math-verify limits its time by signals, which work in the main thread alone, take the alarm away from others and do
    not reach a long operation inside C code. Here it runs in a process of its own, which is stopped where it takes too
    long and started anew for the next pair. Threads take turns.

    Args:
        seconds: the limit for one pair.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def equal(self, answer: str, reference: str) -> bool:
        """Judges one pair; False where math-verify fails on it or takes too long, and a warning tells of the latter.

        Raises:
            RuntimeError: math-verify's process does not start.
        """
        with self._lock:
            process = self._process or self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([answer, reference]) + "\n")
                process.stdin.flush()
                line = self._lines.get(timeout=self.seconds)
            except queue.Empty:
                self._stop()
                warnings.warn(
                    f"math-verify took more than {self.seconds:g} s for {answer!r:.60}; judged wrong", stacklevel=2
                )
                return False
            except BrokenPipeError:
                line = ""
            if not line:  # the pair has killed the process, by all its memory for example
                self._stop()
                return False
            return bool(json.loads(line))

    def close(self) -> None:
        """Stops the process, if there is one; the next pair starts another."""
        with self._lock:
            self._stop()

    def _start(self) -> subprocess.Popen[str]:
        # -P keeps this folder, whose names are common words, off the path.
        command = [sys.executable, "-P", str(Path(__file__).with_name("math_worker.py"))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._lines = queue.Queue()
        # A thread, because a pipe cannot be read with a time limit on every system.
        threading.Thread(target=_pump, args=(self._process, self._lines), daemon=True).start()
        try:
            first = self._lines.get(timeout=_START_SECONDS)
        except queue.Empty:
            first = ""
        if first != "ready":
            self._stop()
            raise RuntimeError(f"math-verify does not start; try: {' '.join(command)}")
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # what was still to be sent has no reader any more
                process.stdin.close()


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            lines.put(line.strip())
    lines.put("")  # the process has ended


_judge = MathJudge()
atexit.register(_judge.close)


@lru_cache(maxsize=10_000)  # an answer is judged once for the score and once for the list of predictions
def same_value(answer: str, reference: str) -> bool:
    r"""Compares two LaTeX answers: equal as normalised text, or equal in value by math-verify.

    Args:
        answer: what :func:`wegeft_pl.metrics.boxed.last_boxed` found in a generated text.
        reference: the gold answer.

    Returns:
        Whether they are equal; False too where math-verify takes more than 10 seconds.

    Raises:
        RuntimeError: math-verify is not installed, or its process does not start.
    """
    return same_latex(answer, reference) or _judge.equal(answer, reference)
