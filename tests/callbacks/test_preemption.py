"""A signal stops a run behind its step, saved; the run that goes on equals one that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from small_run import make_task, make_trainer
from torch import Tensor

from wegeft_pl.callbacks import AdapterCheckpoint, Preemption, RunReport
from wegeft_pl.callbacks.preemption import Stopped
from wegeft_pl.data import GSM8KDataModule


class Signals(Callback):
    """Sends a signal at a batch, or in a validation."""

    def __init__(self, number: int, batch: int, when: str = "training", times: int = 1) -> None:
        self.number, self.batch, self.when, self.times = number, batch, when, times

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._send("start", 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._send("training", batch_idx)

    def on_validation_batch_start(self, trainer: Trainer, *rest: Any) -> None:
        self._send("validation", trainer.fit_loop.epoch_loop.batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._send("end", 0)

    def _send(self, when: str, batch: int) -> None:
        if (self.when, self.batch) == (when, batch):
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The run folder, beside the data: 16 rows, two a batch, eight batches an epoch."""
    return problems(tmp_path) / "run"


def problems(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    rows = [{"question": f"{n}+{n * n}", "answer": f"{n}+{n * n}={n + n * n}\n#### {n + n * n}"} for n in range(16)]
    for split, own in (("train", rows), ("val", rows[:5])):
        (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
    return path


def fit(folder: Path, root: Path, *callbacks: Callback, **fields: Any) -> tuple[Trainer, dict[str, Tensor]]:
    torch.manual_seed(3)
    last = root / "checkpoints" / "last.ckpt"
    task = make_task(folder, generate=False)
    settings = {"accumulate_grad_batches": 2, "max_epochs": 2, "enable_checkpointing": True}
    listed = (
        AdapterCheckpoint(monitor="val/loss", every_n_epochs=1),
        Preemption(),
        RunReport(summary=False),
        *callbacks,
    )
    trainer = make_trainer(root, *listed, **(settings | fields))
    data = GSM8KDataModule(str(problems(root.parent)), batch_size=2)
    trainer.fit(task, datamodule=data, ckpt_path=str(last) if last.exists() else None)
    assert task.adapter is not None
    return trainer, {name: tensor.clone() for name, tensor in task.adapter.state_dict().items()}


def saved(root: Path) -> dict[str, Any]:
    return torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)


def best(root: Path) -> list[tuple[str, float]]:
    state = next(value for name, value in saved(root)["callbacks"].items() if name.startswith("AdapterCheckpoint"))
    return sorted((Path(path).name, float(score)) for path, score in state["best_k_models"].items())


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)],
    ids=str,
)
@pytest.mark.parametrize("batch", [2, 7])
def test_it_ends_the_step_saves_and_goes_on(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], number: int, code: int, batch: int
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    _, whole = fit(folder, tmp_path / "whole")
    root = tmp_path / "parts"
    with pytest.raises(Stopped, match=f"stopped by {signal.Signals(number).name} behind step") as stopped:
        fit(folder, root, Signals(number, batch))
    assert stopped.value.code == code
    step = (batch + 2) // 2
    assert saved(root)["global_step"] == step
    line = f"stopped by {signal.Signals(number).name} behind step {step}, saved; go on with --run_dir {root}"
    assert f"{line} --ckpt_path last\n" in capfd.readouterr().out
    assert "behind step" in (root / "run.json").read_text()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == handlers
    _, resumed = fit(folder, root)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert best(root) == best(tmp_path / "whole")
    assert {path.name for path in (root / "checkpoints").iterdir()} == {
        path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()
    }


@pytest.mark.parametrize(("batch", "interval"), [(7, 1.0), (3, 4), (4, 5)], ids=["end", "between", "inside"])
def test_a_validation_is_stopped_and_done_anew(folder: Path, tmp_path: Path, batch: int, interval: float) -> None:
    _, whole = fit(folder, tmp_path / "whole", val_check_interval=interval)
    root = tmp_path / "parts"
    with pytest.raises(Stopped):
        fit(folder, root, Signals(signal.SIGTERM, batch, "validation"), val_check_interval=interval)
    # Inside a step its gradients are in no checkpoint: the validation is finished and the step too.
    assert saved(root)["global_step"] == (batch + 2) // 2
    _, resumed = fit(folder, root, val_check_interval=interval)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert best(root) == best(tmp_path / "whole")


def test_before_the_first_step_nothing_is_saved(folder: Path, root: Path) -> None:
    with pytest.raises(Stopped, match="stopped by SIGTERM outside of training"):
        fit(folder, root, Signals(signal.SIGTERM, 0, "start"))
    assert not list(root.rglob("*.ckpt"))


def test_behind_the_last_step_the_end_is_made_up_for(folder: Path, root: Path) -> None:
    with pytest.raises(Stopped, match="outside of training"):
        fit(folder, root, Signals(signal.SIGTERM, 0, "end"))
    ends: list[int] = []

    class End(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            ends.append(trainer.global_step)

    fit(folder, root, End())
    fit(folder, root, End())  # the report says that all was done
    assert ends == [8]


def test_the_second_ctrl_c_stops_at_once_and_keeps_the_last_good_file(folder: Path, root: Path) -> None:
    callbacks = (Signals(signal.SIGINT, 6, times=2), Preemption())
    checkpoint = AdapterCheckpoint(every_n_train_steps=1)
    trainer = make_trainer(root, checkpoint, *callbacks, enable_checkpointing=True, accumulate_grad_batches=2)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
        trainer.fit(make_task(folder, generate=False), datamodule=GSM8KDataModule(str(root.parent), batch_size=2))
    assert not isinstance(stopped.value, Stopped)
    assert saved(root)["global_step"] == 3


def test_it_must_stand_behind_the_callback_that_saves(folder: Path, root: Path) -> None:
    trainer = make_trainer(root, Preemption(), AdapterCheckpoint(), enable_checkpointing=True)
    with pytest.raises(ValueError, match="list it behind AdapterCheckpoint"):
        trainer.fit(make_task(folder, generate=False), datamodule=GSM8KDataModule(str(root.parent), batch_size=2))


@pytest.mark.parametrize(
    ("variables", "job", "works"),
    [
        ({"SLURM_JOB_ID": "17"}, "17", True),
        ({"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "2"}, "15_2", True),
        ({"SLURM_JOB_ID": "17"}, "17", False),
    ],
    ids=["job", "array", "refused"],
)
def test_slurm_puts_the_job_back_into_the_queue(
    folder: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    variables: dict[str, str],
    job: str,
    works: bool,
) -> None:
    scontrol = root / "bin" / "scontrol"
    scontrol.parent.mkdir(parents=True)
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {root}/asked\n' + ("" if works else "echo no such job >&2; exit 1\n"))
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Stopped):
        fit(folder, root, Signals(signal.SIGUSR1, 2))
    assert (root / "asked").read_text() == f"requeue {job}\n"
    said = f"requeued job {job}\n" if works else f"job {job} could not be requeued: no such job\n"
    assert said in capfd.readouterr().out


def test_lightning_s_own_requeueing_is_off(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(SLURMEnvironment, "_validate_srun_used", staticmethod(lambda: None))
    environment = SLURMEnvironment()
    monkeypatch.setenv("PATH", "")  # no scontrol here
    with pytest.raises(Stopped, match="SIGUSR1"):
        fit(folder, root, Signals(signal.SIGUSR1, 2), plugins=[environment])
    assert not environment.auto_requeue
    assert not list(root.rglob("hpc_ckpt*"))
    assert saved(root)["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("when", "step"), [("training", 3), ("validation", 4)])
def test_a_signal_to_one_of_two_processes_stops_both(folder: Path, root: Path, when: str, step: int) -> None:
    script = Path(__file__).with_name("preemption_script.py")
    foreign = ("PL_", "PYTEST", "SLURM", "RANK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    run = subprocess.run(
        [sys.executable, str(script), str(folder), str(root.parent), str(root), when],
        env=kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 143, run.stderr[-2000:]
    assert run.stdout.count(f"stopped by SIGTERM behind step {step}, saved; go on with") == 1
    assert saved(root)["global_step"] == step
