"""One default folder for all that is kept between runs."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from wegeft_pl.data import FineTuneDataModule, ImageDataModule, PromptedDataModule
from wegeft_pl.data.cache_folder import default_cache_dir


def test_where_things_are_kept_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir("images") == f"{tmp_path}/wegeft_pl/images"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_cache_dir("tokens") == "~/.cache/wegeft_pl/tokens"


@pytest.mark.parametrize(("module", "kind"), [(PromptedDataModule, "tokens"), (ImageDataModule, "images")])
def test_the_default_can_be_seen(module: type[FineTuneDataModule], kind: str) -> None:
    assert inspect.signature(module).parameters["cache_dir"].default.endswith(f"/wegeft_pl/{kind}")
