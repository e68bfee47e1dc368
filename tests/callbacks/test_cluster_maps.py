from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from explain.small_vision import write_pictures
from lightning.pytorch.loggers import TensorBoardLogger
from small_run import SmallData, make_task, make_trainer
from tasks.tiny_images import Colours
from tasks.tiny_images import make_task as make_image_task
from tasks.tiny_images import make_trainer as make_image_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wegeft_pl.callbacks import ClusterMaps
from wegeft_pl.callbacks import cluster_maps as module


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "tensors": 0}).Reload()


def test_images(tmp_path: Path, timm: ModuleType) -> None:
    images, _ = write_pictures(tmp_path)
    callback = ClusterMaps(images=str(images), layers=["blocks.0"], limit=3, num_maps=1)
    task = make_image_task()
    logger = TensorBoardLogger(tmp_path / "run", name="tensorboard", version="")
    make_image_trainer(tmp_path / "run", callback, logger=logger, max_steps=1).fit(task, datamodule=Colours())
    assert [path.name for path in (tmp_path / "run/clusters").iterdir()] == ["blocks.0.attn.proj.png"]
    assert callback.report() == {"paths": {"clusters": str(tmp_path / "run/clusters")}}
    assert events(tmp_path / "run").Tags()["images"] == ["clusters/blocks.0.attn.proj"]


def test_text(folder: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat and 3 dogs ran. " * 20)
    callback = ClusterMaps(text=str(tmp_path / "text.txt"), limit=2, max_length=32, num_tokens=3)
    make_trainer(root, callback, tensorboard=True, max_steps=1).fit(make_task(folder), datamodule=SmallData())
    clusters = json.loads((root / "clusters/clusters.json").read_text())["clusters"]
    assert len(clusters) == 4 * 4  # q_proj and down_proj of two layers, rank 4
    assert all(len(each["highest"]) == 3 for each in clusters)
    assert (root / "clusters/clusters.md").read_text().startswith("| layer | cluster | highest | lowest |")
    assert events(root).Tags()["tensors"] == ["clusters/text_summary"]


def test_training_and_modes_are_not_affected(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 20)
    results = []
    for name, callbacks in (("without", ()), ("with", (ClusterMaps(text=str(tmp_path / "text.txt")),))):
        torch.manual_seed(7)
        task = make_task(folder)
        make_trainer(tmp_path / name, *callbacks, max_steps=2).fit(task, datamodule=SmallData())
        assert task.adapter is not None
        results.append((task.adapter.state_dict(), [part.training for part in task.modules()], torch.get_rng_state()))
    assert all(torch.equal(results[0][0][name], tensor) for name, tensor in results[1][0].items())
    assert results[0][1] == results[1][1]
    assert torch.equal(results[0][2], results[1][2])


def test_a_trial_writes_nothing(folder: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat")
    callback = ClusterMaps(text=str(tmp_path / "text.txt"))
    make_trainer(root, callback, fast_dev_run=True).fit(make_task(folder), datamodule=SmallData())
    assert not (root / "clusters").exists()
    assert callback.report() == {}


def test_what_cannot_work_is_said_before_training(
    folder: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("the cat")
    with pytest.raises(ValueError, match="ClusterMaps needs either images or text, got images None and text None"):
        ClusterMaps()

    def fit(callback: ClusterMaps) -> None:
        make_trainer(root, callback, max_steps=1).fit(make_task(folder), datamodule=SmallData())

    with pytest.raises(ValueError, match="text: no file nowhere"):
        fit(ClusterMaps(text="nowhere"))
    with pytest.raises(ValueError, match="images: nowhere is no folder"):
        fit(ClusterMaps(images="nowhere"))
    with pytest.raises(ValueError, match="layers: 'up_proj' names no edited layer"):
        fit(ClusterMaps(text=str(tmp_path / "text.txt"), layers=["up_proj"]))
    task = make_task(folder)
    task.backbone_name = None
    with pytest.raises(ValueError, match="needs the tokenizer of a backbone with a name; name the backbone"):
        make_trainer(root, ClusterMaps(text=str(tmp_path / "text.txt"))).fit(task, datamodule=SmallData())
    monkeypatch.setattr(module, "is_sharded", lambda trainer: True)
    with pytest.raises(ValueError, match=r"ClusterMaps needs whole weights, and .* shards them; leave it out"):
        fit(ClusterMaps(text=str(tmp_path / "text.txt")))
    assert not any(root.iterdir())
