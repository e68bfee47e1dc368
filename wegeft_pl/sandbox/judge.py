"""The script that runs tests against a program in another process: ``python -I judge.py CHANNEL VERDICT LIMITS``.

It reads a trial from its standard input, has the program loaded at the other end of the channel, runs the tests here
and writes two lines to a pipe that only this process has: what the system granted, and the outcome. The program can
answer what it likes; the assertions run here, on exact built-in values, so it passes by right answers only. Standard
library alone.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __name__ != "__main__":
    from wegeft_pl.sandbox import confine, wire
    from wegeft_pl.sandbox.remote import Client, ProgramError
else:  # a script has no package: its neighbours are found by folder
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import confine
    import wire
    from remote import Client, ProgramError

    del sys.path[0]


def judge(channel: socket.socket, trial: dict[str, Any]) -> dict[str, str]:
    """Runs a trial.

    Args:
        channel: to the program's process.
        trial: ``program``, ``setup``, ``tests`` (source texts) and ``names`` (what the tests take from the program).

    Returns:
        ``outcome`` (passed, failed, error, gone) and ``reason``.
    """
    try:
        client = Client(channel)
        client.ask("load", trial["program"])
        space: dict[str, Any] = {"__name__": "tests"}
        exec(compile(trial["setup"], "<setup>", "exec"), space)
        for name in trial["names"]:
            space[name] = client.ask("name", name)
        exec(compile(trial["tests"], "<tests>", "exec"), space)
    except wire.GoneError:
        outcome, reason = "gone", ""
    except AssertionError as error:
        outcome, reason = "failed", f"an assertion failed: {error}".removesuffix(": ")
    except ProgramError as error:
        outcome, reason = "error", str(error)
    except BaseException as error:
        outcome, reason = "error", f"{type(error).__name__}: {error}".removesuffix(": ")
    else:
        outcome, reason = "passed", ""
    return {"outcome": outcome, "reason": reason[:2000]}


if __name__ == "__main__":
    confine.die_with_parent()
    confine.hide_memory()  # the expected values are here
    trial = json.load(sys.stdin)
    confine.set_limits(json.loads(sys.argv[3]))
    sys.set_int_max_str_digits(0)
    channel = socket.socket(fileno=int(sys.argv[1]))
    with os.fdopen(int(sys.argv[2]), "w", encoding="utf-8", errors="replace") as pipe:
        print(json.dumps(wire.receive(channel)), file=pipe, flush=True)
        print(json.dumps(judge(channel, trial)), file=pipe)
