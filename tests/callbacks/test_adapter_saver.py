from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from small_run import SmallData, make_task, make_trainer
from transformers import LlamaForCausalLM

from wegeft_pl import load_adapter
from wegeft_pl.adapter.storage import read_json
from wegeft_pl.callbacks import AdapterSaver


def test_the_folder_loads_onto_the_base(folder: Path, root: Path) -> None:
    saver, task = AdapterSaver(), make_task(folder)
    make_trainer(root, saver).fit(task, datamodule=SmallData())
    assert saver.report() == {"paths": {"adapter": str(root / "adapter")}}
    assert read_json(root / "adapter" / "adapter_config.json")["base"]["name"] == str(folder)
    assert task.adapter is not None
    loaded = load_adapter(LlamaForCausalLM.from_pretrained(folder), root / "adapter")
    for name, tensor in task.adapter.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


class FailsAtTheEnd(Callback):
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("out of memory while scoring")


def test_it_is_there_before_anything_can_fail_at_the_end(folder: Path, root: Path) -> None:
    trainer = make_trainer(root, FailsAtTheEnd(), AdapterSaver())
    with pytest.raises(RuntimeError, match="while scoring"):
        trainer.fit(make_task(folder), datamodule=SmallData())
    assert (root / "adapter" / "adapter.safetensors").exists()


def test_fast_dev_run_writes_nothing(folder: Path, root: Path) -> None:
    saver = AdapterSaver()
    make_trainer(root, saver, fast_dev_run=True, max_epochs=None).fit(make_task(folder), datamodule=SmallData())
    assert saver.report() == {}
    assert list(root.iterdir()) == []


def test_other_modules_are_refused_at_once(root: Path) -> None:
    with pytest.raises(ValueError, match=r"AdapterSaver needs a task derived from wegeft_pl.tasks.FineTuneTask"):
        AdapterSaver().setup(make_trainer(root), LightningModule(), "fit")
