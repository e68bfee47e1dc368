"""The script that holds a program under test: ``python -I worker.py CHANNEL WORKDIR LIMITS``.

Three processes. The keeper leaves the network and the process tree and waits. Its child is the first process of the
new tree, so that everything in it dies with that one; it makes the files read-only. *Its* child gives up its rights,
loads the program, and does what the tests ask over the channel: call a function, read an attribute. From the moment the
program is loaded nothing that comes out of this process is trusted: it can send values, and only the tests' own
process judges them. Standard library alone; see ``wire.py``.
"""

from __future__ import annotations

import json
import operator
import os
import signal
import socket
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __name__ != "__main__":
    from wegeft_pl.sandbox import confine, wire
else:  # a script has no package: its neighbours are found by folder, which programs then do not see
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import confine
    import wire

    del sys.path[0], sys.modules["confine"], sys.modules["wire"]


def keep(channel: socket.socket, workdir: str, limits: dict[str, int]) -> int:
    """Confines a child that holds the program, waits for it, and returns how it ended as a shell would say it."""
    confine.die_with_parent()
    told = {"network": confine.leave_network(), "processes": confine.leave_processes(), "files": False}
    child = os.fork()
    if child == 0:
        confine.die_with_parent()
        if told["processes"]:
            told["files"] = confine.freeze_files(workdir, limits["disk_bytes"])
        if not told["files"]:
            os.chmod(workdir, 0o777)  # the program may be another user than the one who made the folder
        os.chdir(workdir)
        program = os.fork()
        if program == 0:
            told["user"] = confine.drop_privileges()
            confine.set_limits(limits)
            wire.send(channel, told)  # the one message that is true whatever the program is
            Holder(channel).serve()
            os._exit(0)
        channel.close()
        os._exit(_outlive(program))
    channel.close()
    code = _outlive(child)
    _kill_orphans()
    return code


def _outlive(child: int) -> int:
    while True:
        number, status = os.wait()  # orphans of the program end up here too
        if number == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _kill_orphans() -> None:
    """Kills what the program has left behind and this process has adopted; nothing, where its tree died as a whole."""
    children = f"/proc/self/task/{os.getpid()}/children"
    with suppress(OSError):  # none is left, or the system does not tell
        while True:
            with open(children, encoding="ascii") as reader:
                for number in reader.read().split():
                    os.kill(int(number), signal.SIGKILL)
            os.wait()


class Holder:
    """Holds the program's namespace and objects, and does what the tests ask.

    Args:
        channel: to the tests.
    """

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.objects: list[Any] = []
        self.module = types.ModuleType("program")
        self.actions: dict[str, Callable[..., Any]] = {
            "load": self.load,
            "name": lambda name: self.module.__dict__[name],
            "call": lambda function, args, kwargs: function(*args, **kwargs),
            "getattr": getattr,
            "setattr": setattr,
            "getitem": operator.getitem,
            "setitem": operator.setitem,
            "iter": iter,
            "next": next,
            "len": len,
            "bool": bool,
            "str": str,
            "equal": operator.eq,
        }

    def serve(self) -> None:
        """Answers until the tests have gone."""
        while True:
            try:
                action, sent = wire.receive(self.channel)
            except wire.GoneError:
                return
            try:
                args = wire.decode(sent, self.objects.__getitem__)
                result = self._encode(self.actions[action](*args))
                # The tests may look at a list that the program has changed.
                changed = self._encode(args) if action == "call" else None
                answer = ["value", result, None if changed == sent else changed]
            except BaseException as error:
                answer = ["raised", [kind.__name__ for kind in type(error).__mro__], _text(error)]
            try:
                wire.send(self.channel, answer)
            except (wire.WireError, RecursionError, ValueError) as error:
                wire.send(self.channel, ["raised", ["WireError", "Exception"], str(error)])

    def load(self, source: str) -> None:
        """Runs the program's text; what it keeps for ``__name__ == "__main__"`` does not run."""
        sys.modules["program"] = self.module  # dataclasses and typing look a class's module up by name
        exec(compile(source, "<program>", "exec"), self.module.__dict__)

    def _encode(self, value: Any) -> Any:
        return wire.encode(_plain(value), self._hold)

    def _hold(self, value: Any) -> int:
        self.objects.append(value)
        return len(self.objects) - 1


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own number; anything else as it is."""
    numpy = sys.modules.get("numpy")
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def _text(error: BaseException) -> str:
    try:
        return str(error)[:2000]
    except Exception as another:
        return f"(no message: {type(another).__name__})"


if __name__ == "__main__":
    os._exit(keep(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], json.loads(sys.argv[3])))
