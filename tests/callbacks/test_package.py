from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from wegeft_pl import callbacks

ROOT = Path(__file__).resolve().parents[2]
MODULES = [f"wegeft_pl.callbacks.{module.name}" for module in pkgutil.iter_modules(callbacks.__path__)]


def test_the_folder_cannot_be_imported_under_its_own_name() -> None:
    command = [sys.executable, "-c", "import callbacks"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "no module named 'callbacks'; import wegeft_pl.callbacks" in run.stderr


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    # pytest would collect the files under their path, where the package's guard refuses them.
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_exports_are_complete_and_sorted() -> None:
    assert sorted(callbacks.__all__) == callbacks.__all__
    assert all(name in vars(callbacks) for name in callbacks.__all__)
