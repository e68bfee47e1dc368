"""The smallest task, data and adapter that a recipe can name, so that runs of the command line take milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wegeft_pl.adapter import AdapterConfig
from wegeft_pl.tasks import AdapterCallback, FineTuneTask, OptimizerFactory, Schedule


class CausalLM(FineTuneTask):
    """A linear layer that pretends to be a language model."""

    def __init__(
        self,
        backbone: str,
        dtype: Literal["auto", "float32"] = "auto",
        generate: bool = True,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: Schedule | None = None,
    ) -> None:
        super().__init__(backbone, dtype, optimizer, lr_scheduler)
        if backbone == "nowhere":
            raise ValueError("no backbone 'nowhere'; name a folder")
        self.generate = generate
        self.loaded: list[Path] = []
        self.backbone = nn.Linear(2, 1)

    def use_adapter(self, config: AdapterConfig) -> None:
        self.adapter_config = config

    def load_adapter_from(self, directory: str | Path) -> None:
        self.loaded.append(Path(directory))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.backbone_name == "bug":
            raise KeyError("a bug of ours")
        if self.backbone_name == "fails":
            raise ValueError("the loss is nan; lower the learning rate")
        if self.backbone_name == "interrupt":
            raise KeyboardInterrupt
        assert self.backbone is not None
        return self.backbone(batch).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        assert self.backbone is not None
        self.log("val/loss", self.backbone(batch).sum())

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return batch


class Ones(LightningDataModule):
    """Eight rows of ones."""

    def __init__(self, path: str | None = None, batch_size: int = 4) -> None:
        super().__init__()
        if path == "absent":
            raise FileNotFoundError("no data in 'absent'; give --data.path FILE")
        self.path = path
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(8, 2), batch_size=self.batch_size)

    val_dataloader = train_dataloader
    test_dataloader = train_dataloader
    predict_dataloader = train_dataloader


class Injector(AdapterCallback):
    """Has the options of the real injector that the messages are about."""

    def __init__(
        self,
        targets: str | list[str],
        rank: int = 16,
        alpha: float | None = None,
        sharing: Literal["type", "all", "layer"] | list[str] = "type",
        layers: list[int] | None = None,
    ) -> None:
        self.targets = targets
        self.rank = rank

    def config(self) -> AdapterConfig:
        return AdapterConfig(targets=self.targets, rank=self.rank)


class Lora(AdapterCallback):
    """Another adapter, for overlays that swap the class."""

    def __init__(self, targets: str | list[str], rank: int = 8, dropout: float = 0.0) -> None:
        self.targets = targets
        self.rank = rank

    def config(self) -> AdapterConfig:
        return AdapterConfig(targets=self.targets, rank=self.rank)


class Witness(Callback):
    """Keeps what a run looked like."""

    seen: list[tuple[Trainer, LightningModule]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        Witness.seen.append((trainer, pl_module))


class Before(Callback):
    """Stands for a default callback that runs before the recipe's."""


class After(Callback):
    """Stands for a default callback that runs after the recipe's."""


class Last(Callback):
    """Stands for the report."""
