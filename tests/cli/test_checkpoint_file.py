from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from wegeft_pl.cli.checkpoint_file import FoundCheckpoint, check_checkpoint, newest_checkpoint
from wegeft_pl.cli.failure import UsageError


def write(path: Path, content: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content or {"state_dict": {"w": torch.zeros(1000)}, "loops": {}, "global_step": 4}, path)
    return path


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-500])
    return path


def test_a_whole_checkpoint_and_a_folder_pass(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ckpt")
    assert check_checkpoint(path) == FoundCheckpoint(path, 4)
    assert check_checkpoint(tmp_path) == FoundCheckpoint(tmp_path, None)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-500], lambda b: b"", lambda b: b"model: {}\n", lambda b: b[: len(b) // 2]]
)
def test_damaged_files_are_refused_and_neighbours_named(tmp_path: Path, damage) -> None:
    path = write(tmp_path / "last.ckpt")
    write(tmp_path / "epoch=0-step=4.ckpt")
    truncate(write(tmp_path / "epoch=0-step=2.ckpt"))
    path.write_bytes(damage(path.read_bytes()))
    message = r"last.ckpt is truncated or no checkpoint \(\w+\); good ones beside it: [^,]*step=4.ckpt$"
    with pytest.raises(UsageError, match=message):
        check_checkpoint(path)


def test_a_flipped_bit_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "last.ckpt", {"state_dict": {"w": torch.full((1000,), 7.0)}, "loops": {}, "global_step": 1})
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((100,), 7.0).numpy().tobytes()) + 50] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"last\.ckpt is truncated or no checkpoint"):
        check_checkpoint(path)


def test_last_is_the_last(tmp_path: Path) -> None:
    path = write(tmp_path / "last.ckpt")
    write(tmp_path / "epoch=0-step=9.ckpt", {"state_dict": {}, "loops": {}, "global_step": 9})
    assert newest_checkpoint(path) == FoundCheckpoint(path, 4)


@pytest.mark.parametrize("is_there", [True, False])
def test_last_that_is_broken_or_missing_gives_way_to_the_newest_good_one(tmp_path: Path, is_there: bool) -> None:
    last = tmp_path / "last.ckpt"
    if is_there:
        truncate(write(last))
    for step in (2, 10, 8):
        write(
            tmp_path / f"step={step}.ckpt", {"state_dict": {"w": torch.zeros(9999)}, "loops": {}, "global_step": step}
        )
    truncate(tmp_path / "step=10.ckpt")
    found = newest_checkpoint(last)
    assert (found.path, found.step) == (tmp_path / "step=8.ckpt", 8)
    problem = r"is truncated or no checkpoint \(\w+\)" if is_there else "is not there"
    assert re.search(rf"last.ckpt {problem}: going on from \S*step=8.ckpt, step 8$", str(found.note))


def test_where_none_is_good_it_is_said_what_to_do(tmp_path: Path) -> None:
    last = truncate(write(tmp_path / "checkpoints" / "last.ckpt"))
    truncate(write(tmp_path / "checkpoints" / "step=2.ckpt"))
    message = (
        r"--ckpt_path last: \S*last.ckpt is truncated .*, and no other checkpoint of its folder can be read; start "
        r"anew with another --run_dir, or remove \S*checkpoints to start over in this one"
    )
    with pytest.raises(UsageError, match=message):
        newest_checkpoint(last)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no Lightning checkpoint; start anew with another --run_dir"):
        check_checkpoint(write(tmp_path / "a.ckpt", {"model": torch.zeros(2)}))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is truncated or no checkpoint"):
        check_checkpoint(write(tmp_path / "a.ckpt", {"state_dict": {}, "loops": Path("x"), "global_step": 1}))


def test_values_that_are_not_finite_are_passed_over(tmp_path: Path) -> None:
    broken = {"state_dict": {"w": torch.tensor([1.0, float("nan")])}, "loops": {}, "global_step": 6}
    path, good = write(tmp_path / "last.ckpt", broken), write(tmp_path / "epoch=0-step=4.ckpt")
    assert newest_checkpoint(path).path == good
    with pytest.raises(UsageError, match=r"last\.ckpt holds NaN or infinite values \(w\); good ones beside it"):
        check_checkpoint(path)
