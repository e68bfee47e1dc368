"""A run that stopped, wherever and for whatever reason, and went on equals one that never stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from small_run import make_task, make_trainer
from torch import Tensor

from wegeft_pl.callbacks import AdapterCheckpoint
from wegeft_pl.data import GSM8KDataModule
from wegeft_pl.tasks import ConstantSchedule, LinearSchedule, Schedule

#: 18 rows, two a batch, two batches a step: 9 batches and 5 steps an epoch, the last step of one batch.
STEPS_PER_EPOCH = 5


class Watch(Callback):
    """Remembers the batches; at a step it pulls the cable, or asks for an end there or at the next validation."""

    def __init__(self, step: int | None = None, how: str = "kill") -> None:
        self.step, self.how = step, how
        self.batches: list[list[list[int]]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch["input_ids"].tolist())

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step == self.step and self.how == "kill":
            raise KeyError("the cable was pulled")
        if trainer.global_step == self.step and self.how == "stop":
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == self.step and self.how == "stop at validation":
            trainer.should_stop = True


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    folder = tmp_path / "problems"
    folder.mkdir()
    rows = [{"question": f"{n}+{n * n}", "answer": f"{n}+{n * n}={n + n * n}\n#### {n + n * n}"} for n in range(18)]
    for split, own in (("train", rows), ("val", rows[:3])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
    return folder


class Run:
    """Fits and keeps the batches and the parameters."""

    def __init__(self, model: Path, data: Path, root: Path) -> None:
        self.model, self.data, self.root = model, data, root

    def __call__(
        self, steps: int, schedule: Schedule | None, watch: Watch, every: int | None = None, **fields: Any
    ) -> tuple[list[list[list[int]]], Tensor]:
        torch.manual_seed(3)
        last = self.root / "last.ckpt"
        task = make_task(self.model, generate=False, lr_scheduler=schedule)
        checkpoint = AdapterCheckpoint(str(self.root), every_n_train_steps=every)
        settings = {"max_epochs": 9, "accumulate_grad_batches": 2, "enable_checkpointing": True, "limit_val_batches": 0}
        trainer = make_trainer(self.root, watch, checkpoint, max_steps=steps, **(settings | fields))
        data = GSM8KDataModule(str(self.data), batch_size=2)
        try:
            trainer.fit(task, datamodule=data, ckpt_path=str(last) if last.exists() else None)
        except KeyError:
            assert watch.how == "kill"
        return watch.batches, torch.cat([p.detach().flatten() for p in task.trainable_parameters()])


def check(whole: Any, first: Any, second: Any, batches: int) -> None:
    """Compares the run in two parts, the first of which counts up to a batch, with the whole."""
    assert first[0][:batches] + second[0] == whole[0]
    assert torch.equal(second[1], whole[1])


@pytest.mark.parametrize("schedule", [None, LinearSchedule(warmup_steps=2)], ids=["constant", "linear"])
@pytest.mark.parametrize(("every", "kill", "batches"), [(3, 4, 6), (5, 7, 9), (7, 8, 13), (None, 8, 9)])
def test_a_killed_run_goes_on_where_last_was_written(
    folder: Path, problems: Path, tmp_path: Path, schedule: Schedule | None, every: int | None, kill: int, batches: int
) -> None:
    whole = Run(folder, problems, tmp_path / "whole")(12, schedule, Watch(), every)
    parts = Run(folder, problems, tmp_path / "parts")
    check(whole, parts(12, schedule, Watch(kill), every), parts(12, schedule, Watch(), every), batches)


@pytest.mark.parametrize("schedule", [None, ConstantSchedule()], ids=["none", "constant"])
@pytest.mark.parametrize("steps", [3, STEPS_PER_EPOCH, 8])
def test_a_run_that_ended_at_max_steps_goes_on_in_the_same_epoch(
    folder: Path, problems: Path, tmp_path: Path, schedule: Schedule | None, steps: int
) -> None:
    whole = Run(folder, problems, tmp_path / "whole")(12, schedule, Watch())
    parts = Run(folder, problems, tmp_path / "parts")
    first = parts(steps, schedule, Watch())
    check(whole, first, parts(12, schedule, Watch()), len(first[0]))


@pytest.mark.parametrize("how", ["stop", "stop at validation"])
def test_a_run_that_was_asked_to_stop_goes_on_there(folder: Path, problems: Path, tmp_path: Path, how: str) -> None:
    validating = {"limit_val_batches": 1.0, "val_check_interval": 2}
    whole = Run(folder, problems, tmp_path / "whole")(12, None, Watch(), **validating)
    parts = Run(folder, problems, tmp_path / "parts")
    first = parts(12, None, Watch(3, how), **validating)
    assert len(first[0]) == 6
    check(whole, first, parts(12, None, Watch(), **validating), 6)


def test_the_kept_checkpoint_of_a_cut_epoch_goes_on_too(folder: Path, problems: Path, tmp_path: Path) -> None:
    whole = Run(folder, problems, tmp_path / "whole")(12, None, Watch())
    parts = Run(folder, problems, tmp_path / "parts")
    first = parts(3, None, Watch())
    (tmp_path / "parts" / "epoch=0-step=3.ckpt").replace(tmp_path / "parts" / "last.ckpt")
    check(whole, first, parts(12, None, Watch()), 6)


@pytest.mark.parametrize("mode", [{}, {"max_epochs": 3}], ids=["steps", "epochs"])
@pytest.mark.parametrize("validating", [False, True])
@pytest.mark.parametrize("every", [2, 5, None])
def test_a_run_that_is_killed_again_and_again(
    folder: Path, problems: Path, tmp_path: Path, mode: dict[str, Any], validating: bool, every: int | None
) -> None:
    fields = mode | {"limit_val_batches": 1.0 if validating else 0}
    steps = -1 if mode else 14
    schedule = LinearSchedule(warmup_steps=2)
    whole = Run(folder, problems, tmp_path / "whole")(steps, schedule, Watch(), every, **fields)
    parts = Run(folder, problems, tmp_path / "parts")
    for kill in (7, 12, 14):
        batches, _ = parts(steps, schedule, Watch(kill), every, **fields)
        assert batches == whole[0][whole[0].index(batches[0]) :][: len(batches)]
    last = parts(steps, schedule, Watch(), every, **fields)
    assert last[0] == whole[0][-len(last[0]) :]
    assert torch.equal(last[1], whole[1])


@pytest.mark.parametrize(("first", "second", "batches"), [(2, 4, [4, 4, 2]), (4, 2, [2]), (2, 3, [3, 3, 3, 1])])
def test_another_batch_size_goes_on_at_the_right_row(
    folder: Path,
    problems: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    first: int,
    second: int,
    batches: list[int],
) -> None:
    watches = [Watch(), Watch()]
    for watch, size, steps in zip(watches, (first, second), (4, 9), strict=True):
        last = tmp_path / "last.ckpt"
        trainer = make_trainer(
            tmp_path, watch, AdapterCheckpoint(str(tmp_path)), max_epochs=1, max_steps=steps, enable_checkpointing=True
        )
        data = GSM8KDataModule(str(problems), batch_size=size)
        with caplog.at_level("INFO"):
            trainer.fit(make_task(folder, generate=False), data, ckpt_path=str(last) if last.exists() else None)
    assert [len(batch) for batch in watches[1].batches] == batches
    texts = [tuple(token for token in row if token) for watch in watches for batch in watch.batches for row in batch]
    assert len(texts) == len(set(texts)) == 18
    said = f"the global batch was {first} rows and is {second}: epoch 0 goes on behind row {4 * first} of 18"
    assert caplog.text.count(said) == 1
    assert trainer.current_epoch == 1


def test_other_data_is_refused(folder: Path, problems: Path, tmp_path: Path) -> None:
    runs = Run(folder, problems, tmp_path / "parts")
    runs(3, None, Watch())
    (problems / "val.jsonl").write_text((problems / "train.jsonl").read_text(), encoding="utf-8")
    runs(4, None, Watch())  # validation does not decide about training
    rows = (problems / "train.jsonl").read_text().splitlines(keepends=True)
    (problems / "train.jsonl").write_text("".join(rows[1:]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"trained on other data: sha256 was \{'train.jsonl': '\w+'\} and is"):
        runs(5, None, Watch())
