"""A run of two processes in which one fails ends on both, soon, and says why exactly once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from wegeft_pl.cli import first_cause
from wegeft_pl.cli.first_cause import FILE, FirstCause, FirstCauseError, SaidElsewhereError, claim, is_lost_connection
from wegeft_pl.cli.launcher import ObservedLauncher, how_it_ended
from wegeft_pl.distributed import EveryRankError

HERE = Path(__file__).parent
RECIPE = """\
seed_everything: 7
trainer:
  max_steps: 6
  strategy: ddp
  devices: 2
  accelerator: cpu
  logger: false
  log_every_n_steps: 1
  enable_progress_bar: false
model:
  class_path: faulty_recipe.Faulty
  init_args: {backbone: linear}
data:
  class_path: faulty_recipe.Uneven
"""

Run = Callable[..., tuple[int, list[str], Path]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the recipe as a user does; returns exit code, lines of stderr and the run folder."""
    (tmp_path / "my.yaml").write_text(RECIPE)
    dropped = ("PL_", "SLURM", "RANK", "LOCAL_RANK", "MASTER_", "WORLD_SIZE", "WEGEFT_PL")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (HERE, HERE.parent)))

    def start(*arguments: str, command: str = "fit", timeout: float = 100, **variables: str) -> Any:
        with (tmp_path / "stderr").open("w+") as stderr:
            code = subprocess.run(
                [sys.executable, "-m", "wegeft_pl", command, "--config", "my.yaml", "--run_dir", "run", *arguments],
                cwd=tmp_path, env=environment | variables, stdout=subprocess.DEVNULL, stderr=stderr, timeout=timeout,
                check=False,
            ).returncode  # fmt: skip
            # A child may outlive a main process that was killed; it has two seconds to notice.
            deadline = time.monotonic() + 30
            while _alive(tmp_path) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not _alive(tmp_path), "a process outlived the run"
            stderr.seek(0)
            return code, stderr.read().splitlines(), tmp_path / "run"

    return start


def _alive(folder: Path) -> bool:
    for process in Path("/proc").iterdir():
        try:
            if (process / "cwd").readlink() == folder and b"wegeft_pl" in (process / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


@pytest.mark.slow
def test_without_a_fault_nothing_is_said(run: Run) -> None:
    code, lines, folder = run()
    assert code == 0
    assert not [line for line in lines if "wegeft_pl" in line]
    assert not (folder / FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises-0", r"rank 0: the answer is wrong; give another"),
        ("raises-1", r"rank 1: the answer is wrong; give another"),
        ("killed-1", r"rank 1 was killed by SIGKILL \(out of memory\?\) at step 2; no checkpoint had been written yet"),
        ("killed-0", r"another process ended without a word at step 2: killed, out of memory, or .*; no checkpoint .*"),
        ("exits-1", r"rank 1 ended with exit code 7 at step 2; no checkpoint had been written yet"),
        ("hangs-1", r"rank 1 was killed by SIGKILL \(out of memory\?\) at step 2; no checkpoint had been written yet"),
        ("nan-1", r"the loss is nan on rank 1 at step 2 \(epoch 0\); no checkpoint .*; lower the learning rate, or .*"),
        ("memory-1", r"out of memory on rank 1, cpu at step 2 \(asked for 4096.0 TiB more\)"),
    ],
)
def test_the_first_cause_is_said_once(run: Run, fault: str, message: str) -> None:
    code, lines, folder = run("--model.backbone", fault)
    assert code != 0
    said = [line for line in lines if line.startswith("wegeft_pl: ")]
    assert len(said) == 1, lines
    assert re.fullmatch(f"wegeft_pl: {message}", said[0]), lines
    assert len(lines) <= 5, lines
    assert (folder / FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "command", "message"),
    [
        ("other", "fit", 'rank 1 differs from rank 0 in data.sha256.train: "b", rank 0 has "a"; every process must'),
        ("fewer", "fit", "rank 1 differs from rank 0 in number of training batches: 5, rank 0 has 8; every process"),
        ("other", "validate", 'rank 1 differs from rank 0 in data.sha256.train: "b", rank 0 has "a"; every process'),
    ],
)
def test_other_data_on_one_rank_is_refused(run: Run, path: str, command: str, message: str) -> None:
    code, lines, folder = run("--data.path", path, command=command)
    assert code == 1
    assert lines[0].startswith(f"wegeft_pl: {message}"), lines
    assert len(lines) == 1
    assert not folder.exists()  # nothing was done, so that the name can be used again


@pytest.mark.slow
def test_a_bug_shows_its_traceback_once(run: Run) -> None:
    code, lines, _ = run("--model.backbone", "bug-1")
    assert code == 1
    assert sum("Traceback (most recent call last)" in line for line in lines) == 1
    assert lines[-1].endswith("KeyError: 'a bug of ours'")


@pytest.mark.slow
def test_the_other_processes_speak_on_request(run: Run) -> None:
    _, lines, _ = run("--model.backbone", "raises-1", WEGEFT_PL_TRACEBACK="1")
    assert any("gloo" in line for line in lines)
    assert any(line.endswith("ValueError: the answer is wrong; give another") for line in lines)


@pytest.mark.slow
def test_run_json_names_the_first_cause(run: Run) -> None:
    _, _, folder = run("--model.backbone", "raises-1")
    error = json.loads((folder / "run.json").read_text())["error"]
    assert error.splitlines()[-1] == "rank 1: the answer is wrong; give another"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[pair.cc:561] Connection closed by peer [127.0.0.1]:43847"), True),
        (
            RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv"),
            True,
        ),
        (RuntimeError("NCCL communicator was aborted on rank 3."), True),
        (torch.distributed.DistBackendError("anything"), True),
        (torch.distributed.DistStoreError("wait timeout after 10ms"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (ValueError("Connection closed by peer"), False),
        (KeyError("NCCL"), False),
    ],
)
def test_lost_connections_are_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_lost_connection(error) is expected


def test_only_one_process_claims(tmp_path: Path) -> None:
    assert claim(tmp_path, 1, "first")
    assert not claim(tmp_path, 0, "second")
    assert first_cause.read(tmp_path) == "first"
    first_cause.clear(tmp_path)
    assert first_cause.read(tmp_path) is None
    assert claim(tmp_path, 0, "third")


def test_the_claim_of_an_earlier_run_counts_for_nothing(tmp_path: Path) -> None:
    claim(tmp_path, 1, "last week")
    os.utime(tmp_path / FILE, (1.0, 1.0))
    assert first_cause.read(tmp_path) is None
    assert claim(tmp_path, 0, "today")
    first_cause.clear(tmp_path)  # what rank 0 does at the start
    assert claim(tmp_path, 0, "today")
    assert not claim(tmp_path, 1, "today, too")


def test_without_a_folder_every_process_speaks(tmp_path: Path) -> None:
    assert claim(tmp_path / "absent", 1, "one")
    assert claim(tmp_path / "absent", 0, "two")
    assert not (tmp_path / "absent").exists()


def failed(folder: Path, rank: int, error: BaseException, launcher: Any = None) -> Exception | None:
    """What a process of two is to raise instead of an error."""
    strategy = SimpleNamespace(launcher=launcher)
    trainer: Any = SimpleNamespace(
        world_size=2, global_rank=rank, default_root_dir=folder, global_step=3, strategy=strategy,
        checkpoint_callback=None, ckpt_path=None, state=SimpleNamespace(stage=None),
    )  # fmt: skip
    callback = FirstCause()
    callback.on_exception(trainer, None, error)  # type: ignore[arg-type]
    return callback.error


def test_what_all_raise_alike_names_no_rank(tmp_path: Path) -> None:
    text = "the loss is nan on rank 1"
    assert str(failed(tmp_path, 0, EveryRankError(text))) == text
    assert isinstance(failed(tmp_path, 1, EveryRankError(text)), SaidElsewhereError)


def test_a_process_that_lost_another_one_waits_for_its_reason(tmp_path: Path) -> None:
    claim(tmp_path, 1, "rank 1: bad data")
    lost = RuntimeError("Connection closed by peer")
    error = failed(tmp_path, 0, lost)
    assert isinstance(error, SaidElsewhereError)
    assert lost.__notes__ == ["rank 1: bad data"]


def test_where_nobody_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_cause, "WAIT_SECONDS", 0.01)
    error = failed(tmp_path, 0, RuntimeError("Connection closed by peer\nmore"))
    assert isinstance(error, FirstCauseError)
    assert str(error) == (
        "another process ended without a word at step 3: killed, out of memory, or the network failed "
        "(Connection closed by peer); no checkpoint had been written yet"
    )
    assert isinstance(failed(tmp_path, 1, RuntimeError("Connection reset by peer")), SaidElsewhereError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0)])
def test_an_end_that_was_asked_for_is_no_failure(tmp_path: Path, error: BaseException) -> None:
    assert failed(tmp_path, 0, error) is None
    assert not (tmp_path / FILE).exists()


def launcher_of(*codes: int) -> ObservedLauncher:
    environment: Any = SimpleNamespace(node_rank=lambda: 1)
    launcher = ObservedLauncher(environment, 3, 2, lambda rank, code: None)
    launcher.procs = [subprocess.Popen([sys.executable, "-c", f"import os; os._exit({code})"]) for code in codes]
    return launcher


def test_a_child_is_named_by_its_global_rank(tmp_path: Path) -> None:
    launcher = launcher_of(0, 5)
    for child in launcher.procs:
        child.wait()
    assert launcher.first_ended() == (5, 5)  # node 1 of three processes each: ranks 3, 4 and 5
    assert str(failed(tmp_path, 3, RuntimeError("NCCL"), launcher)).startswith("rank 5 ended with exit code 5 at step")


def test_children_that_hang_are_ended() -> None:
    launcher = launcher_of()
    launcher.procs = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])]
    launcher.end_children(0.1)
    assert launcher.procs[0].poll() == -9
    assert how_it_ended(-15) == "was killed by SIGTERM"
