"""Lines for the user come out as they are."""

from __future__ import annotations

import pytest

from wegeft_pl.data.tell import tell


def test_brackets_and_long_lines_stay(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["[red]a folder[/red]", "word " * 60 + "end"]
    tell(*lines)
    assert capsys.readouterr().out.splitlines() == lines
