"""What travels between the tests and the program under test: frames of JSON that can hold plain data and nothing else.

The program's side of the wire is in the hands of the program. So nothing here runs code that it sends (no pickle), and
whatever it sends becomes an exact built-in type: a class of its own, with an ``__eq__`` that always agrees, arrives as
a reference that equals nothing. This file is read by scripts that run without the package; it imports the standard
library alone.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

#: Larger frames are refused: an answer of 32 MiB is no answer to any test.
MAX_FRAME_BYTES = 32 << 20


class WireError(Exception):
    """A frame that is too large or malformed, or a value that cannot travel."""


class GoneError(Exception):
    """The other side has ended; no exception that a program could raise has this type."""


def send(channel: socket.socket, message: Any) -> None:
    """Sends one message of JSON types, its length in front.

    Raises:
        WireError: it is larger than ``MAX_FRAME_BYTES``.
        GoneError: the other side has ended.
    """
    data = json.dumps(message).encode()
    if len(data) > MAX_FRAME_BYTES:
        raise WireError(f"a value takes {len(data):,} bytes; at most {MAX_FRAME_BYTES:,} travel")
    try:
        channel.sendall(len(data).to_bytes(8, "big") + data)
    except OSError as error:
        raise GoneError from error


def receive(channel: socket.socket) -> Any:
    """Receives one message.

    Raises:
        GoneError: the other side has ended.
        WireError: the frame is too large or is no JSON.
    """
    size = int.from_bytes(_read(channel, 8), "big")
    if size > MAX_FRAME_BYTES:
        raise WireError(f"a value takes {size:,} bytes; at most {MAX_FRAME_BYTES:,} travel")
    try:
        return json.loads(_read(channel, size))
    except ValueError as error:
        raise WireError("the program sent no JSON") from error


def _read(channel: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = channel.recv(min(size - len(parts), 1 << 20))
        except OSError as error:
            raise GoneError from error
        if not part:
            raise GoneError
        parts += part
    return bytes(parts)


def encode(value: Any, keep: Callable[[Any], int]) -> Any:
    """Turns a value into JSON types; containers and rarer types become ``[tag, ...]``.

    Args:
        value: anything; subclasses of built-in types travel as the built-in type.
        keep: takes an object that cannot travel and gives the number under which its owner holds it.

    Returns:
        JSON types.
    """
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, dict):
        return ["dict", *([encode(key, keep), encode(item, keep)] for key, item in value.items())]
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, *(encode(item, keep) for item in value)]
    if isinstance(value, bytes | bytearray):
        return [("bytes" if isinstance(value, bytes) else "bytearray"), value.hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if isinstance(value, Decimal | Fraction):
        return [("Decimal" if isinstance(value, Decimal) else "Fraction"), str(value)]
    if isinstance(value, type) and value in _TYPES.values():
        return ["type", value.__name__]
    return ["object", keep(value)]


#: Types that travel by name.
_TYPES: dict[str, type] = {
    kind.__name__: kind for kind in (int, float, str, bool, bytes, list, tuple, dict, set, complex, object)
}
#: How a tagged value is made again from its decoded parts.
_MAKE: dict[str, Callable[..., Any]] = {
    "list": lambda *items: list(items),
    "tuple": lambda *items: tuple(items),
    "set": lambda *items: set(items),
    "frozenset": lambda *items: frozenset(items),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": complex,
    "range": range,
    "type": _TYPES.__getitem__,
    "Decimal": Decimal,
    "Fraction": Fraction,
}


def decode(message: Any, held: Callable[[int], Any]) -> Any:
    """Turns JSON types into the value again.

    Args:
        message: what :func:`encode` made, or what somebody pretends that it made.
        held: takes the number of an object that did not travel and gives what stands for it here.

    Returns:
        The value, of exact built-in types.

    Raises:
        WireError: the message is malformed.

    Example:
        >>> decode(encode({"a": (1, 2.5), "b": {3}}, keep=id), held=str)
        {'a': (1, 2.5), 'b': {3}}
    """
    if message is None or isinstance(message, bool | int | float | str):
        return message
    try:
        tag, *parts = message
        if tag == "object":
            return held(int(parts[0]))
        if tag == "dict":
            return {decode(key, held): decode(item, held) for key, item in parts}
        return _MAKE[tag](*(decode(part, held) for part in parts))
    except (KeyError, TypeError, ValueError, ArithmeticError, IndexError) as error:
        raise WireError(f"the program sent a malformed value ({error})") from error
