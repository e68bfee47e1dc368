from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from small_run import SmallData, make_task, make_trainer
from torch import Tensor

from wegeft_pl.callbacks import AdapterCheckpoint
from wegeft_pl.tasks import CausalLMTask


def fit(folder: Path, root: Path, *callbacks: Callback, resume: bool = False, **fields: Any) -> dict[str, Tensor]:
    torch.manual_seed(3)
    task = make_task(folder, generate=False)
    trainer = make_trainer(root, *callbacks, enable_checkpointing=True, **fields)
    trainer.fit(task, datamodule=SmallData(), ckpt_path=str(root / "checkpoints" / "last.ckpt") if resume else None)
    assert task.adapter is not None
    return {name: tensor.clone() for name, tensor in task.adapter.state_dict().items()}


def test_files_are_small_and_hold_no_base(folder: Path, root: Path) -> None:
    checkpoint = AdapterCheckpoint()
    fit(folder, root, checkpoint)
    files = sorted(path.name for path in (root / "checkpoints").iterdir())
    assert files == ["epoch=0-step=8.ckpt", "last.ckpt"]
    saved = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert sorted(saved) == [
        f"backbone.wegeft.{group}.{factor}" for group in ("down_proj", "q_proj") for factor in ("phi", "psi")
    ]
    assert checkpoint.report() == {"paths": {"checkpoints": str(root / "checkpoints")}}


def test_last_is_the_newest_also_when_a_run_stops_in_mid_epoch(folder: Path, root: Path) -> None:
    fit(folder, root, AdapterCheckpoint(every_n_train_steps=2), max_steps=5)
    assert torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5


def test_monitored_best_beside_the_last(folder: Path, root: Path) -> None:
    checkpoint = AdapterCheckpoint(monitor="val/loss", filename="best", every_n_epochs=1)
    fit(folder, root, checkpoint, max_epochs=2)
    assert checkpoint.report()["paths"]["best_checkpoint"] == str(root / "checkpoints" / "best.ckpt")
    assert (root / "checkpoints" / "last.ckpt").exists()


def test_resuming_equals_not_stopping(folder: Path, tmp_path: Path) -> None:
    whole = fit(folder, tmp_path / "whole", AdapterCheckpoint(), max_epochs=2)
    fit(folder, tmp_path / "parts", AdapterCheckpoint(), max_epochs=1)
    resumed = fit(folder, tmp_path / "parts", AdapterCheckpoint(), max_epochs=2, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    names = sorted(path.name for path in (tmp_path / "parts" / "checkpoints").iterdir())
    assert names == ["epoch=1-step=16.ckpt", "last.ckpt"]


def test_a_failed_write_leaves_the_old_file(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(folder, root, AdapterCheckpoint())
    before = (root / "checkpoints" / "last.ckpt").read_bytes()

    def half_a_file(self: Trainer, filepath: str, weights_only: bool) -> None:
        Path(filepath).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", half_a_file)
    with pytest.raises(OSError, match="no space left"):
        fit(folder, root, AdapterCheckpoint(), resume=True, max_epochs=2)
    assert (root / "checkpoints" / "last.ckpt").read_bytes() == before
    assert not list((root / "checkpoints").glob(".*"))


class KeepsTheBase(CausalLMTask):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        pass


def test_a_checkpoint_with_the_base_in_it_is_pointed_out(folder: Path, root: Path) -> None:
    trainer = make_trainer(root, AdapterCheckpoint(), enable_checkpointing=True, limit_val_batches=0)
    message = r"hold \d+ frozen tensors of the base \(first: backbone.model.embed_tokens.weight\).*in KeepsTheBase"
    with pytest.warns(UserWarning, match=message):
        trainer.fit(KeepsTheBase(str(folder), generate=False), datamodule=SmallData())


def test_fast_dev_run_writes_nothing(folder: Path, root: Path) -> None:
    fit(folder, root, AdapterCheckpoint(), fast_dev_run=True, max_epochs=None)
    assert list(root.iterdir()) == []


def test_it_comes_last_as_lightning_expects_of_checkpoints(root: Path) -> None:
    class Other(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            pass

    trainer = make_trainer(root, AdapterCheckpoint(), Other(), enable_checkpointing=True)
    assert isinstance(trainer.callbacks[-1], ModelCheckpoint)  # type: ignore[attr-defined]


class Spoil(Callback):
    """Puts a NaN into a trained tensor behind a step, as an optimiser step that overflows does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(p for p in pl_module.parameters() if p.requires_grad).view(-1)[0] = torch.nan


def test_values_that_are_not_finite_never_replace_a_good_file(folder: Path, root: Path) -> None:
    message = (
        r"no checkpoint .*step=4.ckpt at step 4, there is none yet: the model: backbone.wegeft.\w+.\w+ holds NaN or "
        r"infinite values; lower the learning rate"
    )
    with pytest.raises(ValueError, match=message):
        fit(folder, root, Spoil(4), AdapterCheckpoint(every_n_train_steps=2))
    assert sorted(path.name for path in (root / "checkpoints").iterdir()) == ["epoch=0-step=2.ckpt", "last.ckpt"]
    for path in (root / "checkpoints").iterdir():
        saved = torch.load(path, weights_only=True)
        assert saved["global_step"] == 2
        assert all(bool(tensor.isfinite().all()) for tensor in saved["state_dict"].values())


class Fail(Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        raise RuntimeError("the cable was pulled")


def test_saving_on_an_exception_does_not_hide_it(folder: Path, root: Path) -> None:
    callbacks = (Spoil(1), Fail(), AdapterCheckpoint(save_on_exception=True))
    with (
        pytest.warns(UserWarning, match=r"no checkpoint .* at step 1, there is none yet: .* holds NaN or infinite"),
        pytest.raises(RuntimeError, match="cable"),
    ):
        fit(folder, root, *callbacks)
    assert list((root / "checkpoints").iterdir()) == []


def test_the_best_of_a_run_that_ends_inside_an_epoch_is_still_found(folder: Path, root: Path) -> None:
    checkpoint = AdapterCheckpoint(monitor="val/loss", filename="kept-{step}", save_top_k=-1)
    fit(folder, root, checkpoint, max_steps=4, val_check_interval=2)
    names = sorted(path.name for path in (root / "checkpoints").iterdir())
    assert names == ["kept-step=2.ckpt", "kept-step=4.ckpt", "last.ckpt"]


def test_ctrl_c_keeps_what_was_trained(folder: Path, root: Path) -> None:
    class Interrupts(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
            if trainer.global_step == 5:
                raise KeyboardInterrupt

    task = make_task(folder)
    trainer = make_trainer(root, AdapterCheckpoint(), Interrupts(), enable_checkpointing=True)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.fit(task, datamodule=SmallData())
    saved = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    assert task.adapter is not None
    for name, parameter in task.adapter.named_parameters():
        assert torch.equal(saved["state_dict"][f"backbone.{name}"], parameter)
