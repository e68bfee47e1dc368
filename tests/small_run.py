"""A run small enough for any test: a tiny Llama in a folder, made-up answers, a trainer on one CPU process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from wegeft_pl.callbacks import WeGeFTInjector
from wegeft_pl.metrics import last_number
from wegeft_pl.tasks import CausalLMTask

Batch = dict[str, Any]


def save_llama(model: LlamaForCausalLM, folder: Path) -> Path:
    """Writes the tiny Llama with a character tokenizer."""
    model.save_pretrained(folder)
    characters = ["<pad>", "<s>", "</s>", "<unk>"] + list("abcdefghijklmnopqrstuvwxyz0123456789#.+= \n")
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def make_batch(first: int, rows: int, tokens: int = 12, padding: int = 3) -> Batch:
    """Rows with ids from ``first`` on; the last row is padded."""
    ids = torch.randint(4, 47, (rows, tokens), generator=torch.Generator().manual_seed(first))
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, :4] = -100
    labels[-1, tokens - padding :] = -100
    mask[-1, tokens - padding :] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "prompt_ids": ids[:, :4],
        "prompt_mask": mask[:, :4],
        "id": list(range(first, first + rows)),
        "prompt": [f"question {first + row}" for row in range(rows)],
        "reference": [str(row) for row in range(rows)],
    }


class SmallData(LightningDataModule):
    """Eight training batches of four rows, two of validation and two of test."""

    def train_dataloader(self) -> DataLoader:
        return loader([make_batch(100 + 4 * n, 4) for n in range(8)])

    def val_dataloader(self) -> DataLoader:
        return loader([make_batch(0, 4), make_batch(4, 4)])

    def test_dataloader(self) -> DataLoader:
        return loader([make_batch(0, 4), make_batch(4, 4)])

    @property
    def answer_extractors(self) -> Mapping[str, Callable[[str], str | None]]:
        return {"exact_match": last_number}

    def describe(self) -> dict[str, Any]:
        return {"name": "small", "rows": {"train": 32}}


def loader(batches: list[Batch]) -> DataLoader:
    """Batches as they are."""
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def make_task(folder: Path, **fields: Any) -> CausalLMTask:
    settings: dict[str, Any] = {"max_new_tokens": 3, "optimizer": partial(AdamW, lr=1e-2)}
    return CausalLMTask(str(folder), **(settings | fields))


def injector(**fields: Any) -> WeGeFTInjector:
    settings: dict[str, Any] = {"targets": ["q_proj", "down_proj"], "rank": 4, "alpha": 8.0}
    return WeGeFTInjector(**(settings | fields))


def make_trainer(folder: Path, *callbacks: Callback, tensorboard: bool = False, **fields: Any) -> Trainer:
    logger = TensorBoardLogger(folder, name="tensorboard", version="") if tensorboard else False
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": logger,
        "log_every_n_steps": 2,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    return Trainer(default_root_dir=folder, callbacks=[injector(), *callbacks], **(settings | fields))


def scalars(folder: Path) -> dict[str, list[float]]:
    """What TensorBoard holds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
