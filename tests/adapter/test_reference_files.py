"""Files that are read, and files that are not."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import pytest
import torch
from adapter.reference_checkpoints import KEY, projections, save

from wegeft_pl.adapter.reference_files import read_reference


def test_the_moving_average(tmp_path: Path) -> None:
    trained, averaged = projections(), projections()
    both = save({"state_dict": trained, "state_dict_ema": averaged}, tmp_path / "both.pth.tar")
    alone = save({"state_dict_ema": averaged}, tmp_path / "alone.pth.tar")
    for path, ema, expected in ((both, False, trained), (both, True, averaged), (alone, False, averaged)):
        phi = read_reference(path, ema=ema).generators[KEY].phi
        assert torch.equal(phi, expected[f"in_projections.{KEY}.weight"].T)
    with pytest.raises(ValueError, match="has no state_dict_ema; it holds state_dict"):
        read_reference(save({"state_dict": trained}, tmp_path / "none.pth.tar"), ema=True)
    with pytest.raises(ValueError, match="is a bare state dict and holds no moving average; leave ema out"):
        read_reference(save(trained, tmp_path / "bare.pth"), ema=True)


def test_nothing_else_is_unpickled(tmp_path: Path) -> None:
    path = save(
        {"state_dict": projections(), "args": argparse.Namespace(when=datetime.timedelta(1))}, tmp_path / "a.pth"
    )
    with pytest.raises(
        ValueError, match=r"holds a datetime.timedelta, and nothing but tensors, plain types and argparse"
    ):
        read_reference(path)
    good = save({"state_dict": projections(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "b.pth")
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        read_reference(good)
        assert argparse.Namespace in torch.serialization.get_safe_globals()  # the caller's own allowance stays
    finally:
        torch.serialization.clear_safe_globals()
    read_reference(good)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_files_that_are_not_there_or_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing.pth"):
        read_reference(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match=r"holds none of adapter_model.safetensors, adapter_model.bin"):
        read_reference(tmp_path)
    path = save(projections(), tmp_path / "a.pth")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"is truncated or no torch file .*; copy it again"):
        read_reference(path)
