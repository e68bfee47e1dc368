"""Objects of the program as the tests see them: every use goes over the wire, and nothing of it is believed."""

from __future__ import annotations

import builtins
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __name__ != "remote":
    from wegeft_pl.sandbox import wire
else:  # beside the script judge.py
    import wire


class ProgramError(Exception):
    """The program raised an exception of its own, or one that ends programs."""


class Client:
    """The tests' end of the channel.

    Args:
        channel: to the program's process.
    """

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel

    def ask(self, action: str, *args: Any) -> Any:
        """Has the program's process do something and returns the value, of exact built-in types or :class:`Remote`.

        Lists, dicts and sets that the program changed among the arguments of a call are changed here too.

        Raises:
            wire.GoneError: the process has ended.
            Exception: what the program raised, where it is a built-in exception; else :class:`ProgramError`.
        """
        wire.send(self.channel, [action, wire.encode(list(args), _number)])
        kind, *parts = wire.receive(self.channel)
        if kind == "value":
            result, changed = (wire.decode(part, self._remote) for part in parts)
            if action == "call" and changed is not None:
                for old, new in zip(args[1], changed[1], strict=True):
                    _update(old, new)
            return result
        raise _exception(*parts)

    def _remote(self, number: int) -> Remote:
        return Remote(self, number)


class Remote:
    """An object of the program that is no plain data: a function, a class, an instance, an iterator.

    It equals no plain value, whatever its own ``__eq__`` says, so that a program cannot pass ``f(x) == 4`` by an
    object that agrees with everything. Two objects of the program are compared by the program.

    Args:
        client: the way to it.
        number: its place in the program's table.
    """

    __slots__ = ("_client", "_number")

    def __init__(self, client: Client, number: int) -> None:
        object.__setattr__(self, "_client", client)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Has the program call it."""
        return self._client.ask("call", self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._client.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._client.ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._client.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._client.ask("setitem", self, key, value)

    def __iter__(self) -> Any:
        return self._client.ask("iter", self)

    def __next__(self) -> Any:
        return self._client.ask("next", self)

    def __len__(self) -> int:
        return self._client.ask("len", self)

    def __bool__(self) -> bool:
        return self._client.ask("bool", self) is True

    def __str__(self) -> str:
        return self._client.ask("str", self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._client.ask("equal", self, other) is True

    def __hash__(self) -> int:
        return hash(self._number)


def _number(value: Any) -> int:
    if isinstance(value, Remote):
        return value._number
    raise wire.WireError(f"the tests pass the program a {type(value).__name__}, which cannot travel")


def _update(old: Any, new: Any) -> None:
    """Makes a mutable argument what the program has made of it."""
    if type(old) is not type(new) or old == new:
        return
    if isinstance(old, list):
        old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)


def _exception(names: list[str], message: str) -> Exception:
    for name in names:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception) and kind is not Exception:
            try:
                return kind(message)
            except TypeError:  # UnicodeDecodeError and a few others take more than a message
                break
    return ProgramError(f"{names[0]}: {message}")
