"""What every data module does, on numbers: splits built once, the place to resume at, shares of processes."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from wegeft_pl.data import FineTuneDataModule, ImageDataModule, TextDataModule
from wegeft_pl.data.base import check_least

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Numbers(FineTuneDataModule):
    """Ten numbers to train on and three to validate on."""

    def __init__(self, first=0, batch_size=4, eval_batch_size=None, num_workers=0, seed=0):
        super().__init__("numbers", batch_size, eval_batch_size, num_workers, seed)
        self.first = first
        self.built = []

    def make_split(self, split):
        self.built.append(split)
        return {"train": list(range(self.first, self.first + 10)), "val": [100, 101, 102], "test": None}[split]

    def describe(self):
        return {"name": "numbers", "first": self.first, "seed": self.seed}

    def make_collate(self, split):
        return torch.tensor

    def make_blank(self, batch):
        return torch.full_like(batch, -1)

    def how_to_add(self, split):
        return f"bring {split} numbers"


class Recorder(LightningModule):
    """Remembers every batch."""

    def __init__(self, save_at=None, path=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []
        self.save_at, self.path = save_at, path

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.tolist())
        return self.weight * batch.sum()

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Writes a checkpoint behind a step."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(module, ckpt_path=None, callbacks=()):
    task = Recorder()
    Trainer(accelerator="cpu", max_epochs=2, callbacks=list(callbacks), **QUIET).fit(
        task, datamodule=module, ckpt_path=ckpt_path
    )
    return task.seen


def flat(batches):
    return sorted(row for batch in batches for row in batch)


def test_text_and_images_derive_from_it():
    assert issubclass(TextDataModule, FineTuneDataModule)
    assert issubclass(ImageDataModule, FineTuneDataModule)


def test_splits_are_built_once():
    module = Numbers()
    module.setup("fit")
    module.setup("validate")
    assert module.built == ["train", "val"]
    module.setup()
    assert module.built == ["train", "val", "test"]


def test_a_stage_without_rows():
    with pytest.raises(ValueError, match="test needs test rows, and numbers has none; bring test numbers"):
        Numbers().setup("test")
    with pytest.raises(ValueError, match=r"the train split is not built; call setup\(\) first"):
        Numbers().train_dataloader()


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_run_goes_on_where_it_stopped(tmp_path, step):
    whole = fit(Numbers())
    assert flat(whole[:3]) == flat(whole[3:]) == list(range(10))
    assert whole[:3] != whole[3:]
    fit(Numbers(), callbacks=[SaveAt(step, tmp_path / "last.ckpt")])
    assert fit(Numbers(), tmp_path / "last.ckpt") == whole[step:]


def test_another_place_is_refused(tmp_path):
    fit(Numbers(), callbacks=[SaveAt(2, tmp_path / "last.ckpt")])
    with pytest.raises(ValueError, match="trained on other data: first was 0 and is 5"):
        fit(Numbers(first=5), tmp_path / "last.ckpt")


def test_processes_share_rows_and_the_one_too_many_is_blank(monkeypatch):
    served = []
    for rank in range(2):
        module = Numbers(eval_batch_size=1)
        monkeypatch.setattr(module, "shares", lambda rank=rank: (2, rank))
        module.setup("validate")
        batches = [batch.tolist() for batch in module.val_dataloader()]
        assert len(batches) == 2
        served += batches
    assert flat(served) == [-1, 100, 101, 102]


def test_workers():
    module = Numbers(num_workers=None)
    module.setup("fit")
    assert module.workers(module._dataset("train")) == 0
    assert Numbers(num_workers=3).workers(module._dataset("train")) == 3


@pytest.mark.parametrize(
    ("field", "value", "least"), [("batch_size", 0, 1), ("eval_batch_size", 0, 1), ("num_workers", -1, 0)]
)
def test_values_out_of_range(field, value, least):
    with pytest.raises(ValueError, match=rf"data\.{field} must be at least {least}, got {value}"):
        Numbers(**{field: value})
    check_least(field, None, least)
    check_least(field, least, least)
