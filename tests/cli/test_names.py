"""Where recipes are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from wegeft_pl.cli import names
from wegeft_pl.cli.failure import UsageError


def test_a_file_wins_over_a_shipped_recipe(folder: Path) -> None:
    assert names.find_recipe("smoke.yaml") == names.shipped_recipes()["smoke.yaml"].absolute()
    (folder / "smoke.yaml").touch()
    assert names.find_recipe("smoke.yaml") == folder / "smoke.yaml"


def test_with_and_without_the_ending(folder: Path) -> None:
    assert names.find_recipe("smoke") == names.find_recipe("smoke.yaml")


def test_inside_the_package_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "tree" / "wegeft_pl"
    (package / "cli").mkdir(parents=True)
    monkeypatch.setattr(names, "__file__", str(package / "cli" / "names.py"))
    with pytest.raises(UsageError, match=r"no configs folder in or beside .*; run: pip install -e \."):
        names.shipped_folder()
    (folder / "tree" / "configs").mkdir()
    assert names.shipped_folder() == folder / "tree" / "configs"
    (package / "configs").mkdir()
    assert names.shipped_folder() == package / "configs"
