"""What every task shares: building, precision, optimisers, checkpoints, the stop at a loss that is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from tasks.tiny_task import loader, make_batch, make_task, trainer
from torch import nn
from transformers import AutoModelForCausalLM

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.callbacks import WeGeFTInjector
from wegeft_pl.tasks import CausalLMTask, CosineSchedule, FineTuneTask


class Research(FineTuneTask):
    """A research module as the README shows it: its own backbone, its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.temperature = nn.Parameter(torch.ones(()))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.backbone(x) * self.temperature, y)


class Plain(LightningModule):
    """A module of Lightning's that knows nothing of adapters."""

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        raise AssertionError("never reached")

    def configure_optimizers(self) -> None:
        raise AssertionError("never reached")


def pairs() -> Any:
    data = [(torch.randn(4), torch.tensor(i % 2)) for i in range(8)]
    return torch.utils.data.DataLoader(data, batch_size=4)


def test_a_backbone_built_in_init_is_injected_and_trained(tmp_path: Path) -> None:
    task = Research()
    trainer(tmp_path, max_epochs=1, callbacks=[WeGeFTInjector(targets=["0", "2"], rank=2)]).fit(task, pairs())
    assert task.adapter is not None
    assert task.adapter.num_parameters() == 2 * 2 * (4 + 8)
    assert any(group.generator.phi.any() for group in task.adapter.groups)
    assert task.temperature != 1  # a parameter of the task outside the backbone trains too
    (path,) = (tmp_path / "checkpoints").glob("*.ckpt")
    names = set(torch.load(path, weights_only=True)["state_dict"])
    assert names == {"temperature"} | {f"backbone.wegeft.{i}.{f}" for i in (0, 2) for f in ("phi", "psi")}


def test_the_injector_needs_a_fine_tune_task(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=1, callbacks=[WeGeFTInjector(targets=["0"])])
    with pytest.raises(ValueError, match=r"WeGeFTInjector needs a task derived from wegeft_pl.tasks.FineTuneTask"):
        run.fit(Plain(), pairs())


def test_fit_then_test_keeps_one_adapter(llama_folder: Path, tmp_path: Path) -> None:
    task = CausalLMTask(str(llama_folder))
    run = trainer(tmp_path, max_steps=1, callbacks=[WeGeFTInjector(targets=["q_proj"], rank=2)])
    run.fit(task, loader([make_batch(2)]))
    adapter = task.adapter
    run.test(task, loader([make_batch(2)]), verbose=False)
    assert task.adapter is adapter


def test_another_adapter_is_refused(llama_folder: Path) -> None:
    task = make_task(llama_folder)
    task.configure_model()
    with pytest.raises(ValueError, match="already has another adapter"):
        task.use_adapter(AdapterConfig(["v_proj"]))


def test_a_task_without_a_backbone_says_so() -> None:
    with pytest.raises(ValueError, match=r"FineTuneTask has no backbone; name one \(--model.backbone\)"):
        FineTuneTask().configure_model()


def test_a_saved_adapter_folder_is_loaded(llama_folder: Path, tmp_path: Path) -> None:
    first = make_task(llama_folder)
    first.configure_model()
    assert first.adapter is not None
    nn.init.normal_(first.adapter.groups[0].generator.phi)
    first.adapter.save(tmp_path / "adapter")
    second = CausalLMTask(str(llama_folder))
    second.load_adapter_from(tmp_path / "adapter")
    second.configure_model()
    batch = make_batch(2)
    assert torch.equal(first.probe_output(batch), second.probe_output(batch))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_stay_float32(llama_folder: Path, tmp_path: Path, dtype: str) -> None:
    task = make_task(llama_folder, dtype=dtype)
    trainer(tmp_path, max_steps=1, precision="bf16-mixed").fit(task, loader([make_batch(2)]))
    assert {parameter.dtype for parameter in task.trainable_parameters()} == {torch.float32}
    assert task.model.lm_head.weight.dtype == getattr(torch, dtype)


def test_precision_16_true_is_refused_and_bf16_true_warned_of(llama_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16-true makes training diverge; use bf16-mixed"):
        trainer(tmp_path, max_steps=1, precision="16-true").fit(make_task(llama_folder), loader([make_batch(2)]))
    with pytest.warns(UserWarning, match="bf16-true rounds adapters to bfloat16"):
        trainer(tmp_path, max_steps=1, precision="bf16-true").fit(make_task(llama_folder), loader([make_batch(2)]))


def test_nothing_to_train_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    task = make_task(llama_folder)
    task.configure_model()
    assert task.adapter is not None
    task.adapter.remove()
    with pytest.raises(ValueError, match="nothing to train: the backbone is frozen"):
        trainer(tmp_path, max_steps=1).fit(task, loader([make_batch(2)]))


def test_a_schedule_needs_an_end(llama_folder: Path, tmp_path: Path) -> None:
    task = make_task(llama_folder, lr_scheduler=CosineSchedule())
    with pytest.raises(ValueError, match=r"needs an end: set --trainer.max_epochs or --trainer.max_steps"):
        trainer(tmp_path, max_epochs=-1, max_steps=-1).fit(task, loader([make_batch(2)]))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    llama_folder: Path, tmp_path: Path
) -> None:
    class Breaks(CausalLMTask):
        def loss(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
            loss_sum, count = super().loss(batch)
            return (loss_sum * float("nan") if self.global_step == 3 else loss_sum), count

    task = Breaks(str(llama_folder))
    task.use_adapter(AdapterConfig(["q_proj"], rank=2))
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    run = trainer(tmp_path, max_steps=9, callbacks=[checkpoint])
    with pytest.raises(ValueError, match=r"the loss is nan at step 3 \(epoch 0\); .*step=2.ckpt; lower the learning"):
        run.fit(task, loader([make_batch(2, seed) for seed in range(9)]))
    assert all(parameter.isfinite().all() for parameter in task.trainable_parameters())
    (kept,) = tmp_path.glob("*.ckpt")
    assert torch.load(kept, weights_only=True)["global_step"] == 2


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(llama_folder: Path, tmp_path: Path) -> None:
    task = make_task(llama_folder)
    task.configure_model()
    task.trainable_parameters()[0].register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(ValueError, match=r"the gradient's norm is (nan|inf) at step 0 \(epoch 0\)"):
        trainer(tmp_path, max_steps=2).fit(task, loader([make_batch(2)] * 2))
    assert all(parameter.isfinite().all() for parameter in task.trainable_parameters())


def test_a_pretrained_backbone_built_in_init_is_woken_from_eval_mode(llama_folder: Path, tmp_path: Path) -> None:
    seen = []

    class Built(FineTuneTask):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = AutoModelForCausalLM.from_pretrained(llama_folder)

        def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
            seen.append({module.training for module in self.backbone.modules()})
            return self.backbone(input_ids=batch["input_ids"], labels=batch["input_ids"]).loss

    injector = WeGeFTInjector(targets=["q_proj"], rank=2)
    trainer(tmp_path, max_steps=1, callbacks=[injector]).fit(Built(), loader([make_batch(2)]))
    assert seen == [{True}]


def fitted(folder: Path, tmp_path: Path, **fields: Any) -> tuple[CausalLMTask, Path]:
    torch.manual_seed(0)
    task = make_task(folder, **fields)
    run = trainer(tmp_path, max_steps=2, enable_checkpointing=False)
    run.fit(task, loader([make_batch(2, seed) for seed in range(4)]))
    run.save_checkpoint(path := tmp_path / "a.ckpt")
    return task, path


def test_checkpoints_are_small_plain_and_hold_no_base(llama_folder: Path, tmp_path: Path) -> None:
    task, path = fitted(llama_folder, tmp_path)
    content = torch.load(path, weights_only=True)
    assert task.adapter is not None
    assert sum(t.numel() for t in content["state_dict"].values()) == task.adapter.num_parameters()
    assert all(".wegeft." in name for name in content["state_dict"])
    assert content["wegeft_pl"]["base"] == task.adapter.fingerprint.to_dict()


def test_load_from_checkpoint_rebuilds_the_adapter(llama_folder: Path, tmp_path: Path) -> None:
    task, path = fitted(llama_folder, tmp_path)
    loaded = CausalLMTask.load_from_checkpoint(path)
    batch = make_batch(2)
    assert torch.equal(loaded.probe_output(batch), task.probe_output(batch))


def test_resuming_equals_never_having_stopped(llama_folder: Path, tmp_path: Path) -> None:
    batches = [make_batch(2, seed) for seed in range(4)]

    def run(max_steps: int, ckpt: Path | None, rows: list) -> CausalLMTask:
        torch.manual_seed(0)
        task = make_task(llama_folder, lr_scheduler=CosineSchedule(warmup_steps=1))
        fit = trainer(tmp_path, max_steps=max_steps, max_epochs=9, enable_checkpointing=False)
        fit.fit(task, loader(rows), ckpt_path=ckpt, weights_only=ckpt is not None or None)
        fit.save_checkpoint(tmp_path / f"{max_steps}.ckpt")
        return task

    whole = run(8, None, batches)
    run(4, None, batches)
    # The schedule of the first half ran to its end at 4; what must agree is the state it goes on from.
    resumed = run(8, tmp_path / "4.ckpt", batches)
    assert resumed.global_step == whole.global_step == 8
    content = torch.load(tmp_path / "8.ckpt", weights_only=True)
    assert content["lr_schedulers"][0]["last_epoch"] == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["state_dict"].popitem(), r"this checkpoint lacks backbone.wegeft.* \(1 missing, 0 unknown"),
        (lambda c: c["state_dict"].update(x=torch.ones(1)), r"has x, which this task does not train"),
        (lambda c: next(iter(c["state_dict"].values())).fill_(float("nan")), r"holds NaN or infinite values"),
        (lambda c: c["wegeft_pl"]["adapter"].update(rank=8), r"written with adapter.rank=8, the run has 4"),
        (lambda c: c["wegeft_pl"]["base"].update(weights="0" * 64), r"was trained on another base \(its weights"),
        (lambda c: c.pop("wegeft_pl"), r"holds no adapter, but the run has one"),
        (
            lambda c: c["state_dict"].update({next(iter(c["state_dict"])): torch.ones(3, 3)}),
            r"has shape \(3, 3\), expected",
        ),
    ],
)
def test_foreign_and_broken_checkpoints_are_refused(llama_folder: Path, tmp_path: Path, change, message: str) -> None:
    _, path = fitted(llama_folder, tmp_path)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, max_steps=4, enable_checkpointing=False).fit(
            make_task(llama_folder), loader([make_batch(2)]), ckpt_path=path, weights_only=True
        )


def test_a_checkpoint_with_an_adapter_needs_the_adapter_section(llama_folder: Path, tmp_path: Path) -> None:
    _, path = fitted(llama_folder, tmp_path)
    task = CausalLMTask(str(llama_folder))
    task.configure_model()
    task.model.lm_head.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="holds an adapter, but the run has none; add the adapter section"):
        trainer(tmp_path, max_steps=4, enable_checkpointing=False).fit(
            task, loader([make_batch(2)]), ckpt_path=path, weights_only=True
        )


def test_save_merged_of_a_research_task_says_what_to_do(tmp_path: Path) -> None:
    task = Research()
    inject(task.backbone, AdapterConfig(["0"]))
    with pytest.raises(ValueError, match="Research does not say how to save a merged backbone; override save_merged"):
        task.save_merged(tmp_path)
