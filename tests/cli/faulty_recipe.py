"""The tiny recipe on two processes, where one of them fails; the tests name how as the task's backbone."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from cli.tiny_recipe import CausalLM, Ones
from torch import Tensor, nn
from torch.utils.data import DataLoader

BROKEN_BATCH = 2


class Faulty(CausalLM):
    """Fails at its third batch: ``raises-1`` raises on rank 1, ``killed-0`` kills rank 0, and so on."""

    def build_backbone(self, meta: bool = False) -> nn.Module:
        return nn.Linear(2, 1, device="meta" if meta else None)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        assert self.backbone is not None
        assert self.backbone_name is not None
        loss = self.backbone(batch).sum()
        fault, _, rank = self.backbone_name.partition("-")
        if batch_idx == BROKEN_BATCH and rank == str(self.global_rank):
            loss = self.fail(fault, loss)
        elif batch_idx == BROKEN_BATCH and fault == "hangs":
            time.sleep(600)
        return self.weighted(loss, torch.tensor(len(batch)))

    def fail(self, fault: str, loss: Tensor) -> Tensor:
        if fault == "raises":
            raise ValueError("the answer is wrong; give another")
        if fault == "bug":
            raise KeyError("a bug of ours")
        if fault in ("killed", "hangs"):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "exits":
            os._exit(7)
        if fault == "memory":
            torch.empty(1 << 50)
        assert fault == "nan"
        return loss * float("nan")


class Uneven(Ones):
    """Data that differs on rank 1: ``other`` in its digest, ``fewer`` in its number of batches."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(40 if self._differs("fewer") else 64, 2), batch_size=self.batch_size)

    def describe(self) -> dict[str, Any]:
        return {"path": os.environ.get("LOCAL_RANK"), "sha256": {"train": "b" if self._differs("other") else "a"}}

    def _differs(self, how: str) -> bool:
        return self.path == how and os.environ.get("LOCAL_RANK") == "1"
