"""The local file or folder that a user's path names."""

from __future__ import annotations

import pytest

from wegeft_pl.data.sources import find_path


def test_home_bundled_and_plain_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows").mkdir()
    assert find_path("~/rows") == find_path(str(tmp_path / "rows")) == tmp_path / "rows"
    assert find_path("bundled:word_problems").is_dir()
    with pytest.raises(FileNotFoundError, match=r"data\.path: no file or folder .*row; did you mean 'rows'\?"):
        find_path(str(tmp_path / "row"))
