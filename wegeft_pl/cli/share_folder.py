"""Gives every process of a run the folder that the first one chose."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer


class ShareRunFolder(Callback):
    """Sends rank 0's run folder to the others once they are connected, before any other callback uses it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes ``trainer.default_root_dir`` the same on all ranks."""
        trainer._default_root_dir = trainer.strategy.broadcast(trainer.default_root_dir)  # type: ignore[attr-defined]
