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
