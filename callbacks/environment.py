"""What a run ran on: versions, device and seed, for run.json."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch
from lightning.pytorch import Trainer

import wegeft_pl


def versions(trainer: Trainer) -> dict[str, Any]:
    """Versions of everything that numbers depend on, and the device's name."""
    # torch says of itself which CUDA it was built for; its package's metadata does not.
    found: dict[str, Any] = {"wegeft_pl": wegeft_pl.__version__, "torch": str(torch.__version__)}
    found |= {name: version(name) for name in ("lightning", "transformers")}
    return found | {"python": platform.python_version(), "device": device_name(trainer), "devices": trainer.world_size}


def device_name(trainer: Trainer) -> str:
    """The accelerator's name, or the processor's with the number of threads."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def seed() -> int | None:
    """The seed that ``seed_everything`` was given, or None."""
    value = os.environ.get("PL_GLOBAL_SEED")
    return None if value is None else int(value)
