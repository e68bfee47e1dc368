"""A folder appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from wegeft_pl.adapter.whole_folder import whole_folder


def test_it_appears_at_the_end_with_its_parents(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a" / "b") as building:
        (building / "file").write_text("new")
        assert building.parent == tmp_path / "a"
        assert not (tmp_path / "a" / "b").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b" / "file").read_text() == "new"


def test_a_failure_leaves_nothing_and_an_earlier_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("old")

    def attempt() -> None:
        with whole_folder(tmp_path / "out", overwrite=True) as building:
            (building / "file").write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attempt()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_only_overwrite_replaces_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "old").exists()
    with whole_folder(tmp_path / "out", overwrite=True) as building:
        (building / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp" / "stale").touch()
    with whole_folder(tmp_path / "out"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    with whole_folder(tmp_path / "out") as building:
        (building / "file").touch()
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "real" / "file").exists()
