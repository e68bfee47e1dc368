"""A process and everything it started: counted, measured, killed."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def descendants(root: int) -> list[int]:
    """Returns the processes that a process started and those that they started, as far as Linux tells; it not among
    them.
    """
    found: list[int] = []
    pending = [root]
    while pending:
        try:
            tasks = os.listdir(f"/proc/{(parent := pending.pop())}/task")
        except OSError:  # it has ended, or this is no Linux
            continue
        for task in tasks:
            try:
                text = Path(f"/proc/{parent}/task/{task}/children").read_text(encoding="ascii")
            except OSError:
                continue
            children = [int(number) for number in text.split()]
            found += children
            pending += children
    return found


def resident_bytes(processes: list[int]) -> int:
    """Returns how much memory processes hold together; shared pages count for each."""
    total = 0
    for process in processes:
        try:
            total += int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            continue
    return total


def kill_tree(root: int) -> None:
    """Kills a process, the session that it leads, and all descendants, also those that fork meanwhile.

    The root goes last: it adopts the orphans, so that none gets away.
    """
    for _ in range(200):
        living = [process for process in descendants(root) if _is_alive(process)]
        if not living:
            break
        for number in (signal.SIGSTOP, signal.SIGKILL):  # what is stopped cannot fork while the others are killed
            for process in living:
                _signal(process, number)
    try:
        os.killpg(root, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        _signal(root, signal.SIGKILL)


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2][1] != "Z"
    except (OSError, IndexError):
        return False


def _signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)
