from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import SmallData, make_task, make_trainer, scalars
from torch import Tensor

from wegeft_pl.callbacks import MemoryAccounting
from wegeft_pl.callbacks.memory import resident_bytes
from wegeft_pl.tasks import CausalLMTask


def test_parts_beside_the_estimate(folder: Path, root: Path) -> None:
    accounting, task = MemoryAccounting(), make_task(folder)
    make_trainer(root, accounting, tensorboard=True).fit(task, datamodule=SmallData())
    report = accounting.report()["memory_bytes"]
    estimate = report.pop("estimate")
    assert report["gradients"] == 4 * 320
    assert report["optimizer"] == 2 * 4 * 320 + 4 * 4  # two moments, a step count for each of four factors
    assert report["activations"] is None  # cannot be told on a CPU
    assert "resident set of the whole process" in report["measured"]
    for part in ("weights", "gradients", "optimizer"):
        assert estimate[part] == report[part]
    assert estimate["activations"] > 0
    assert estimate["peak"] == sum(estimate[part] for part in ("weights", "gradients", "optimizer", "activations"))
    assert 50e6 < report["peak"] <= resident_bytes() + 1e9
    logged = scalars(root)
    assert len(logged["memory/peak"]) == 4
    assert "memory/activations" not in logged


def test_resident_bytes_follow_allocations() -> None:
    before, size = resident_bytes(), 100 * 2**20
    with mmap.mmap(-1, size) as held:  # new pages; the allocator may have some left from earlier tests
        held.write(b"1" * size)
        assert resident_bytes() - before > 0.9 * size


class NeedsValues(CausalLMTask):
    def training_loss(self, batch: dict[str, Any]) -> Tensor:
        loss = super().training_loss(batch)
        return loss * float(loss.detach().tolist())


def test_a_loss_that_needs_values_costs_the_estimate_only(folder: Path, root: Path) -> None:
    accounting = MemoryAccounting()
    make_trainer(root, accounting, max_steps=1).fit(NeedsValues(str(folder), generate=False), datamodule=SmallData())
    report = accounting.report()["memory_bytes"]
    assert report["estimate"] is None
    assert report["peak"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_peak_is_split_and_near_the_estimate(folder: Path, root: Path) -> None:
    accounting = MemoryAccounting()
    make_trainer(root, accounting, accelerator="gpu").fit(make_task(folder), datamodule=SmallData())
    report = accounting.report()["memory_bytes"]
    assert report["measured"].startswith("most bytes allocated by torch")
    assert report["reserved"] >= report["peak"]
    parts = (report[part] for part in ("weights", "gradients", "optimizer", "activations"))
    assert report["peak"] == sum(parts)
    # The allocator rounds every tensor up to 512 bytes, and these are tiny; kernels' workspaces come on top.
    assert report["activations"] > 0.5 * report["estimate"]["activations"]
