from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wegeft_pl.sandbox import Limits, Trial, Verdict, run_trial

Try = Callable[..., Verdict]


def processes_naming(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Try]:
    """Runs a program whose f(1) must be 2 under small limits; afterwards nothing of it may be left."""
    place = tmp_path / "trials"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))

    def run(program: str, tests: str = "assert f(1) == 2", setup: str = "", **limits: float) -> Verdict:
        # Starting Python takes its time on a busy machine; what is slow here is stopped by processor time.
        small = {"wall_seconds": 20.0, "cpu_seconds": 1, "memory_mib": 256, "file_mib": 1, "disk_mib": 4}
        trial = Trial(program, tests, names=("f",), setup=setup)
        return run_trial(trial, Limits(**(small | {"num_processes": 4} | limits)))  # type: ignore[arg-type]

    yield run
    assert list(place.iterdir()) == []
    assert processes_naming(str(place)) == []
