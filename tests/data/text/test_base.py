"""Text data modules inside a Lightning run: tokenizer from the task, epochs, resuming, sharing out."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from wegeft_pl.data import GSM8KDataModule
from wegeft_pl.tasks import LinearSchedule


class Recorder(LightningModule):
    """A task whose weight depends on every batch and its order, and that remembers every batch."""

    def __init__(self, tokenizer, schedule=None):
        super().__init__()
        self.tokenizer = tokenizer
        self.schedule = schedule
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []
        self.validated = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch["input_ids"].tolist()))
        return (self.weight - batch["input_ids"].float().mean()) ** 2

    def validation_step(self, batch, batch_idx):
        self.validated += batch["id"]

    def test_step(self, batch, batch_idx):
        self.validated += batch["id"]

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        if self.schedule is None:
            return optimizer
        # As FineTuneTask does: the number of steps makes Lightning set the loader up before the loops are restored.
        scheduler = self.schedule.build(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class SaveAt(Callback):
    """Writes a checkpoint behind a step."""

    def __init__(self, step, path):
        self.step = step
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.fixture
def run(gsm8k_folder, make_tokenizer, tmp_path):
    """Runs `fit` (or another entry point) on the small folder and returns the task."""

    def run(entry="fit", ckpt_path=None, val_size=0, callbacks=(), schedule=None, **kwargs):
        module = GSM8KDataModule(str(gsm8k_folder), batch_size=4, val_size=val_size)
        task = Recorder(make_tokenizer("llama"), schedule)
        trainer = Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
            **kwargs,
        )
        getattr(trainer, entry)(task, datamodule=module, ckpt_path=ckpt_path)
        return task

    return run


def test_the_tokenizer_is_the_task_s_and_every_epoch_has_its_own_order(run):
    seen = run(max_epochs=3).seen
    epochs = [[batch for number, batch in seen if number == epoch] for epoch in range(3)]
    assert [len(epoch) for epoch in epochs] == [5, 5, 5]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert run(max_epochs=3).seen == seen


def test_validation_and_test_serve_each_row_once(run):
    assert sorted(run("test").validated) == list(range(7))
    task = run("validate", val_size=3)
    assert len(task.validated) == len(set(task.validated)) == 3


def test_fit_without_validation_rows_skips_validation(run):
    assert run(max_epochs=1).validated == []


@pytest.mark.parametrize("schedule", [None, LinearSchedule(warmup_steps=2)], ids=["constant", "linear"])
@pytest.mark.parametrize("steps", [3, 5, 7])
def test_a_run_resumed_in_the_middle_of_an_epoch_sees_the_same_batches(run, tmp_path, steps, schedule):
    whole = run(max_epochs=3, schedule=schedule)
    save = SaveAt(steps, tmp_path / "last.ckpt")
    first = run(max_epochs=3, callbacks=[save], schedule=schedule)
    second = run(max_epochs=3, ckpt_path=tmp_path / "last.ckpt", schedule=schedule)
    assert first.seen == whole.seen
    assert second.seen == whole.seen[steps:]
    assert torch.equal(second.weight, whole.weight)


def test_a_place_to_resume_at_is_used_once_and_only_by_fit(gsm8k_folder, make_tokenizer, tmp_path, run):
    run(max_epochs=1, callbacks=[SaveAt(3, tmp_path / "last.ckpt")])
    module, task = GSM8KDataModule(str(gsm8k_folder), batch_size=4), Recorder(make_tokenizer("llama"))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainers = [Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet) for _ in range(4)]
    seen = []
    trainers[0].test(task, datamodule=module, ckpt_path=tmp_path / "last.ckpt", verbose=False)
    for trainer, ckpt_path in zip(trainers[1:], (None, tmp_path / "last.ckpt", None), strict=True):
        task.seen = []
        trainer.fit(task, datamodule=module, ckpt_path=ckpt_path)
        seen.append(len(task.seen))
    assert seen == [5, 2, 5]


def test_overfit_batches_gives_the_same_batches_every_epoch(run):
    seen = run(max_epochs=2, overfit_batches=2).seen
    assert [batch for epoch, batch in seen if epoch == 0] == [batch for epoch, batch in seen if epoch == 1]
    assert len(seen) == 4


def test_limit_train_batches(run):
    assert len(run(max_epochs=1, limit_train_batches=2).seen) == 2


def test_processes_share_the_rows_out(gsm8k_folder, make_tokenizer, monkeypatch):
    tokenizer = make_tokenizer("llama")
    tested = []
    for rank in range(2):
        module = GSM8KDataModule(str(gsm8k_folder), batch_size=2)
        monkeypatch.setattr(module, "resolve_tokenizer", lambda: tokenizer)
        monkeypatch.setattr(module, "shares", lambda rank=rank: (2, rank))
        module.setup("test")
        batches = list(module.test_dataloader())
        assert len(batches) == 2
        tested += [number for batch in batches for number in batch["id"]]
    assert sorted(tested) == list(range(7))


def test_a_row_that_two_processes_have_counts_once(gsm8k_folder, make_tokenizer, monkeypatch):
    tokenizer = make_tokenizer("llama")
    ids, batches, labels = [], [], 0
    for rank in range(2):
        module = GSM8KDataModule(str(gsm8k_folder), batch_size=1)  # seven rows: four and three
        monkeypatch.setattr(module, "resolve_tokenizer", lambda: tokenizer)
        monkeypatch.setattr(module, "shares", lambda rank=rank: (2, rank))
        module.setup("test")
        served = list(module.test_dataloader())
        batches.append(len(served))
        ids += [number for batch in served for number in batch["id"]]
        labels += sum(int((batch["labels"] != -100).sum()) for batch in served)
    assert batches == [4, 4]
    assert sorted(ids) == [-1, *range(7)]
    assert labels == module.describe()["labelled_tokens"]["test"]


def test_the_shares_are_those_of_the_strategy(run, gsm8k_folder, monkeypatch):
    module = GSM8KDataModule(str(gsm8k_folder))
    assert module.shares() == (1, 0)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    module.trainer = trainer
    assert module.shares() == (1, 0)
    monkeypatch.setattr(type(trainer), "distributed_sampler_kwargs", {"num_replicas": 4, "rank": 3})
    assert module.shares() == (4, 3)


def test_a_tokenizer_by_name(gsm8k_folder, make_tokenizer, tmp_path):
    make_tokenizer("llama").save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "tokenizer/config.json").write_text('{"model_type": "llama"}')
    module = GSM8KDataModule(str(gsm8k_folder), tokenizer=str(tmp_path / "tokenizer"))
    module.setup("fit")
    first = module._splits["train"]
    module.setup("fit")
    assert module._splits["train"] is first
    assert len(module.train_dataloader()) == 3
