"""Tasks, batches and trainers small enough for any test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from wegeft_pl import AdapterConfig
from wegeft_pl.tasks import CausalLMTask

Batch = dict[str, Any]


def make_task(folder: Path, rank: int = 4, **fields: Any) -> CausalLMTask:
    """A task on the folder's Llama with an adapter on q_proj and down_proj."""
    task = CausalLMTask(str(folder), max_new_tokens=4, **fields)
    task.use_adapter(AdapterConfig(["q_proj", "down_proj"], rank=rank, alpha=2 * rank))
    return task


def make_batch(rows: int, seed: int = 0, tokens: int = 12) -> Batch:
    """Rows of random tokens with prompts and paddings of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 47, (rows, tokens), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    for row in range(rows):
        prompt = int(torch.randint(1, 6, (), generator=generator))
        padding = int(torch.randint(0, 4, (), generator=generator))
        labels[row, :prompt] = -100
        labels[row, tokens - padding :] = -100
        mask[row, tokens - padding :] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch cut into equal parts along its rows."""
    rows = len(batch["input_ids"]) // parts
    return [{key: value[i * rows : (i + 1) * rows] for key, value in batch.items()} for i in range(parts)]


def loader(batches: list[Batch]) -> DataLoader:
    """Batches as they are."""
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def trainer(folder: Path, **fields: Any) -> Trainer:
    """A quiet trainer on one CPU process."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **(quiet | fields))
