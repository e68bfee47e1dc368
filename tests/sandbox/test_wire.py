from __future__ import annotations

import math
import socket
from collections import Counter, OrderedDict
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from wegeft_pl.sandbox import wire


def refuse(value: Any) -> int:
    raise AssertionError(f"{value!r} should travel")


VALUES = [
    None, True, False, 0, -(10**40), 1.5, "\u00e9\ud800", b"\x00", bytearray(b"a"), 2 + 3j, range(1, 9, 2),
    [1, [2, (3,)]], (), {1, 2}, frozenset("ab"), {"a": 1, (1, 2): [None]}, Decimal("1.20"), Fraction(2, 6), int, list,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_values_arrive_as_they_are(value: Any) -> None:
    near, far = socket.socketpair()
    with near, far:
        wire.send(near, wire.encode(value, refuse))
        found = wire.decode(wire.receive(far), refuse)
    assert found == value
    assert type(found) is type(value)


def test_special_floats_and_subclasses() -> None:
    assert math.isnan(wire.decode(wire.encode(math.nan, refuse), refuse))
    for value, kind in ((Counter("aab"), dict), (OrderedDict(a=1), dict)):
        found = wire.decode(wire.encode(value, refuse), refuse)
        assert type(found) is kind
        assert found == value


def test_other_objects_travel_as_numbers() -> None:
    kept: list[object] = []

    def keep(value: object) -> int:
        kept.append(value)
        return len(kept) - 1

    thing = object()
    assert wire.encode([thing, 1], keep) == ["list", ["object", 0], 1]
    assert wire.decode(["list", ["object", 0], 1], kept.__getitem__) == [thing, 1]


@pytest.mark.parametrize(
    "message",
    [["nothing"], [], ["dict", 1], ["bytes", "zz"], ["Decimal", "x"], ["Fraction", "1/0"], ["object", 9],
     ["set", ["list"]], {"a": 1}, ["type", "function"], [["list"]]],
)  # fmt: skip
def test_malformed_values(message: Any) -> None:
    with pytest.raises(wire.WireError, match="the program sent a malformed value"):
        wire.decode(message, [].__getitem__)


def test_frames() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.sendall((wire.MAX_FRAME_BYTES + 1).to_bytes(8, "big"))
        with pytest.raises(wire.WireError, match="a value takes 33,554,433 bytes; at most 33,554,432 travel"):
            wire.receive(far)
        near.sendall((3).to_bytes(8, "big") + b"{a}")
        with pytest.raises(wire.WireError, match="the program sent no JSON"):
            wire.receive(far)
        with pytest.raises(wire.WireError, match="a value takes"):
            wire.send(near, "a" * (wire.MAX_FRAME_BYTES + 1))
        near.close()
        with pytest.raises(wire.GoneError):
            wire.receive(far)
