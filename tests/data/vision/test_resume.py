"""Order and augmentation of images: the same after a resume, with any number of workers and processes."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from wegeft_pl.data import ImageFolderDataModule

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
AUGMENTED = {"resize": "shorter", "resize_size": 20, "train_transform": "crop_flip"}


class Recorder(LightningModule):
    """A task that remembers every batch, and whose weight depends on their order."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch["indices"].tolist(), batch["pixel_values"].clone()))
        return (self.weight - batch["pixel_values"].mean()) ** 2

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Writes a checkpoint behind a step."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.fixture
def fit(folder, fields, tmp_path):
    """Fits two epochs on the folder and returns the task."""

    def fit(ckpt_path=None, callbacks=(), **changes):
        module = ImageFolderDataModule(str(folder), **{**fields, **changes})
        task = Recorder()
        trainer = Trainer(accelerator="cpu", max_epochs=2, callbacks=list(callbacks), **QUIET)
        trainer.fit(task, datamodule=module, ckpt_path=ckpt_path)
        return task

    return fit


def same(first, second):
    assert [(epoch, rows) for epoch, rows, _ in first] == [(epoch, rows) for epoch, rows, _ in second]
    return all(torch.equal(one, other) for (*_, one), (*_, other) in zip(first, second, strict=True))


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_order_and_augmentation_resume_exactly(fit, tmp_path, step, cache):
    options = {**AUGMENTED, "cache_pixels": cache, "num_workers": 0}
    whole = fit(**options)
    assert len(whole.seen) == 6
    fit(callbacks=[SaveAt(step, tmp_path / "last.ckpt")], **options)
    resumed = fit(ckpt_path=tmp_path / "last.ckpt", **options)
    assert same(resumed.seen, whole.seen[step:])
    assert torch.equal(resumed.weight, whole.weight)


def test_augmentation_differs_from_epoch_to_epoch(fit):
    def rows(epoch):
        pairs = [(rows, pixels) for number, rows, pixels in seen if number == epoch]
        return {row: image for rows, pixels in pairs for row, image in zip(rows, pixels, strict=True)}

    seen = fit(**AUGMENTED).seen
    first, second = rows(0), rows(1)
    assert sum(torch.equal(first[row], second[row]) for row in range(12)) < 3


def test_other_data_is_refused_where_a_run_goes_on(fit, tmp_path, folder, save):
    fit(callbacks=[SaveAt(2, tmp_path / "last.ckpt")])
    with pytest.raises(ValueError, match="normalization was 'none' and is 'half'"):
        fit(ckpt_path=tmp_path / "last.ckpt", normalization="half")
    save("animals/train/cow/9.png", 77)
    with pytest.raises(ValueError, match="trained on other data: sha256"):
        fit(ckpt_path=tmp_path / "last.ckpt")


def test_kept_or_decoded_anew_the_pixels_are_the_same(fit, fields):
    first = fit(**AUGMENTED, cache_pixels=True).seen
    assert same(fit(**AUGMENTED, cache_pixels=False, num_workers=0).seen, first)


@pytest.mark.parametrize("transform", ["crop_flip", "timm"])
def test_workers_change_nothing(fit, transform, timm):
    options = {**AUGMENTED, "train_transform": transform, "cache_pixels": False}
    assert same(fit(**options, num_workers=2).seen, fit(**options, num_workers=0).seen)


def test_processes_share_the_rows_and_their_augmentation(folder, fields, monkeypatch):
    def batches(module, number, rank):
        monkeypatch.setattr(module, "shares", lambda: (number, rank))
        module.setup("fit")
        return list(module.train_dataloader()), list(module.val_dataloader())

    alone, _ = batches(ImageFolderDataModule(str(folder), **fields, **AUGMENTED), 1, 0)
    pixels = {row: image for batch in alone for row, image in zip(batch["indices"].tolist(), batch["pixel_values"])}  # noqa: B905
    seen, validated, labels = [], [], []
    for rank in range(2):
        module = ImageFolderDataModule(str(folder), **{**fields, "eval_batch_size": 1}, **AUGMENTED)
        train, val = batches(module, 2, rank)
        for batch in train:
            for row, image in zip(batch["indices"].tolist(), batch["pixel_values"], strict=True):
                assert torch.equal(image, pixels[row])
                seen.append(row)
        validated += [row for batch in val for row in batch["indices"].tolist()]
        labels += [label for batch in val for label in batch["labels"].tolist()]
    assert sorted(seen) == list(range(12))
    assert sorted(validated) == [-1, 0, 1, 2]  # three rows for two processes: one fills up and counts for nothing
    assert sorted(labels) == [-100, 0, 1, 2]
