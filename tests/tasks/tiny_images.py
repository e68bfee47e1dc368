"""Images of one colour per class, and tasks on timm's smallest models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch.optim import AdamW
from torch.utils.data import DataLoader

from wegeft_pl.callbacks import WeGeFTInjector
from wegeft_pl.data.loader import EpochLoader
from wegeft_pl.data.order import BatchOrder
from wegeft_pl.tasks import ImageClassificationTask

Batch = dict[str, torch.Tensor]
NAMES = ["red", "green", "blue"]
SIZE = 160  # what timm's test models were made for


def make_images(rows: int, first: int = 0) -> Batch:
    """Rows with indices from ``first`` on; the class is the brightest channel."""
    generator = torch.Generator().manual_seed(first)
    labels = torch.arange(first, first + rows) % 3
    images = torch.randn(rows, 3, SIZE, SIZE, generator=generator)
    images[torch.arange(rows), labels] += 1.5
    return {"pixel_values": images, "labels": labels, "indices": torch.arange(first, first + rows)}


class Colours(LightningDataModule):
    """Four training batches of four images, and two of three for scores."""

    def __init__(self, names: list[str] = NAMES, batches: int = 4) -> None:
        super().__init__()
        self.class_names = list(names)
        self.batches = batches

    def train_dataloader(self) -> EpochLoader:
        rows = 4 * self.batches
        images = make_images(rows, 100)

        def collate(chosen: list[int]) -> Batch:
            return {name: values[chosen] for name, values in images.items()}

        return EpochLoader(list(range(rows)), BatchOrder(rows, 4, shuffle=True), collate)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        return loader([make_images(3), make_images(3, 3)])

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader


class Stop(Callback):
    """Ends a part of a run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


def loader(batches: list[Batch]) -> DataLoader:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def make_task(backbone: str = "test_vit", **fields: Any) -> ImageClassificationTask:
    settings: dict[str, Any] = {"weights": "random", "optimizer": partial(AdamW, lr=1e-2)}
    return ImageClassificationTask(backbone, **(settings | fields))


def injector(**fields: Any) -> WeGeFTInjector:
    settings: dict[str, Any] = {"targets": ["attn.proj"], "rank": 2, "zero": "psi"}
    return WeGeFTInjector(**(settings | fields))


def make_trainer(folder: Path, *callbacks: Any, adapter: bool = True, **fields: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False, "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }  # fmt: skip
    own = [injector()] if adapter else []
    return Trainer(default_root_dir=folder, callbacks=[*own, *callbacks], **(settings | fields))
