from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wegeft_pl.cli.checkpoint_file import check_checkpoint
from wegeft_pl.cli.failure import UsageError


def write(path: Path, content: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content or {"state_dict": {"w": torch.zeros(1000)}, "loops": {}}, path)
    return path


def test_a_whole_checkpoint_and_a_folder_pass(tmp_path: Path) -> None:
    check_checkpoint(write(tmp_path / "a.ckpt"))
    check_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-500], lambda b: b"", lambda b: b"model: {}\n", lambda b: b[: len(b) // 2]]
)
def test_damaged_files_are_refused_and_neighbours_named(tmp_path: Path, damage) -> None:
    path = write(tmp_path / "last.ckpt")
    write(tmp_path / "epoch=0-step=4.ckpt")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=r"last.ckpt is truncated or no checkpoint \(\w+\); beside it: .*step=4.ckpt"):
        check_checkpoint(path)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no Lightning checkpoint; start anew with another --run_dir"):
        check_checkpoint(write(tmp_path / "a.ckpt", {"model": torch.zeros(2)}))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is truncated or no checkpoint"):
        check_checkpoint(write(tmp_path / "a.ckpt", {"state_dict": {}, "loops": Path("x")}))
