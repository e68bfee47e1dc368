"""Text is generated with folded weights where that changes nothing, or where it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tasks.tiny_task import make_batch, make_task
from torch import nn

from wegeft_pl import AdapterConfig
from wegeft_pl.adapter import folded as module
from wegeft_pl.tasks import CausalLMTask
from wegeft_pl.tasks.folding import while_generating

BATCH = {"prompt_ids": make_batch(3)["input_ids"], "prompt_mask": torch.ones(3, 12, dtype=torch.int64)}


def ready(folder: Path, **fields: Any) -> CausalLMTask:
    task = make_task(folder, **fields)
    task.configure_model()
    assert task.adapter is not None
    torch.manual_seed(0)
    for _, parameter in task.adapter.named_parameters():
        nn.init.normal_(parameter, std=1.0)
    task.eval()
    return task


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many weights were folded."""
    seen: list[int] = []
    real = module._folded_weight
    monkeypatch.setattr(module, "_folded_weight", lambda sites: seen.append(len(sites)) or real(sites))
    return seen


def test_answers_are_the_same_folded_or_not(llama_folder: Path, count: list[int]) -> None:
    plain = ready(llama_folder, fold_to_generate=False).generate_answers(BATCH)
    assert not count
    assert ready(llama_folder).generate_answers(BATCH) == plain
    assert len(count) == 4  # two layers of two blocks
    base = make_task(llama_folder)
    base.adapter_config = None
    base.configure_model()
    assert base.generate_answers(BATCH) != plain


@pytest.mark.parametrize(
    ("dtype", "form", "fold", "folds"),
    [
        ("bfloat16", "edit", None, 0),
        ("bfloat16", "factor", None, 4),
        ("bfloat16", "edit", True, 4),
        ("float32", "edit", None, 4),
    ],
)
def test_when_weights_are_folded(
    llama_folder: Path, count: list[int], dtype: str, form: str, fold: bool | None, folds: int
) -> None:
    task = CausalLMTask(str(llama_folder), dtype=dtype, max_new_tokens=2, fold_to_generate=fold)
    task.use_adapter(AdapterConfig(["q_proj", "down_proj"], rank=4, form=form))  # type: ignore[arg-type]
    task.configure_model()
    task.generate_answers(BATCH)
    assert len(count) == folds


def test_what_cannot_be_folded_is_said_where_it_was_asked_for(llama_folder: Path, count: list[int]) -> None:
    task = ready(llama_folder)
    with pytest.warns(UserWarning, match=r"fold_to_generate: its blocks are compiled, so text is generated through"):
        while_generating(task.adapter, True, compiled=True)
    while_generating(task.adapter, None, compiled=True)
    assert not count


def test_generating_while_generating_stays_folded(llama_folder: Path, count: list[int]) -> None:
    task = ready(llama_folder)
    with while_generating(task.adapter, None, compiled=False), while_generating(task.adapter, True, compiled=False):
        assert task.adapter is not None
        assert task.adapter.state == "folded"
    assert len(count) == 4
