"""One optimiser step has one gradient, however its samples are cut into micro-batches."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tasks.tiny_task import Batch, loader, make_batch, make_task, split, trainer
from torch.optim import Optimizer

from wegeft_pl.losses import IGNORED
from wegeft_pl.tasks import CausalLMTask


class Recorder(torch.optim.SGD):
    """Keeps the gradients of its first step."""

    seen: list[torch.Tensor]

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        loss = closure() if closure else None
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        return loss


def gradients(folder: Path, tmp_path: Path, batches: list[Batch], **fields: object) -> list[torch.Tensor]:
    torch.manual_seed(0)
    recorders: list[Recorder] = []

    def optimizer(parameters) -> Optimizer:  # type: ignore[no-untyped-def]
        recorders.append(Recorder(parameters, lr=0.0))
        return recorders[0]

    task = make_task(folder, optimizer=optimizer)
    trainer(tmp_path, max_steps=1, accumulate_grad_batches=len(batches), enable_checkpointing=False, **fields).fit(
        task, loader(batches)
    )
    return recorders[0].seen


def expected_gradients(folder: Path, batch: Batch) -> list[torch.Tensor]:
    """The mean over tokens of the whole batch, by full logits and torch's own mean."""
    torch.manual_seed(0)
    task = make_task(folder)
    task.configure_model()
    assert task.backbone is not None
    logits = task.backbone(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED
    ).backward()
    return [parameter.grad for parameter in task.trainable_parameters() if parameter.grad is not None]


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_accumulation_gives_the_gradient_of_the_whole_batch(llama_folder: Path, tmp_path: Path, parts: int) -> None:
    batch = make_batch(8)
    seen = gradients(llama_folder, tmp_path, split(batch, parts))
    for mine, expected in zip(seen, expected_gradients(llama_folder, batch), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-7)


def test_a_mean_of_means_would_differ(llama_folder: Path) -> None:
    batch = make_batch(8)
    parts = [expected_gradients(llama_folder, part) for part in split(batch, 4)]
    means = [sum(part[i] for part in parts) / 4 for i in range(len(parts[0]))]
    whole = expected_gradients(llama_folder, batch)
    assert max((a - b).norm() / b.norm() for a, b in zip(means, whole, strict=True) if b.any()) > 1e-2


def test_gradients_are_normalised_before_they_are_clipped(llama_folder: Path, tmp_path: Path) -> None:
    batch = make_batch(8)
    norm = torch.stack([g.norm() for g in expected_gradients(llama_folder, batch)]).norm().item()
    seen = gradients(llama_folder, tmp_path, split(batch, 2), gradient_clip_val=2 * norm)
    clipped = torch.stack([gradient.norm() for gradient in seen]).norm().item()
    assert clipped == pytest.approx(norm, rel=1e-4)


def test_a_task_that_returns_a_mean_is_left_alone(llama_folder: Path, tmp_path: Path) -> None:
    class MeanTask(CausalLMTask):
        def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
            loss_sum, count = self.loss(batch)
            return loss_sum / count

    task = MeanTask(str(llama_folder))
    task.use_adapter(make_task(llama_folder).adapter_config)  # type: ignore[arg-type]
    trainer(tmp_path, max_steps=1, enable_checkpointing=False).fit(task, loader([make_batch(4)]))
    assert all(parameter.isfinite().all() for parameter in task.trainable_parameters())


@pytest.mark.slow
def test_two_processes_read_one_step_of_sharded_gradients(tmp_path: Path) -> None:
    script = Path(__file__).with_name("window_script.py")
    outputs = [tmp_path / f"{rank}.json" for rank in (0, 1)]
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), tmp_path / "rendezvous", outputs[rank]]) for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    first, second = [json.loads(output.read_text()) for output in outputs]
    assert first[0] == second[0]
    good, broken = first
    weight = (3 + 4) + (4 + 5)
    factor = 2 * 2 / weight  # two micro-batches, two processes
    assert good["loss"] == pytest.approx((1 + 2 + 4 + 8) / weight, rel=1e-12)
    numbers = [value for tensor in good["before"] for value in tensor]
    assert good["norm"] == pytest.approx(factor * math.sqrt(sum(value**2 for value in numbers)), rel=1e-6)
    for before, after in zip(good["before"], good["after"], strict=True):
        assert after == pytest.approx([factor * value for value in before], rel=1e-6)
    assert good["broken"] == []
    assert math.isnan(broken["loss"])
    assert broken["broken"] == second[1]["broken"] == [1]
