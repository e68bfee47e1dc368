from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from small_run import SmallData, loader, make_batch, make_task, make_trainer, scalars
from torch import Tensor
from torch.utils.data import DataLoader

from wegeft_pl.callbacks import AdapterCheckpoint, BeforeAfter, before_after
from wegeft_pl.tasks import CausalLMTask, Evaluation


def weights(task: CausalLMTask) -> dict[str, Tensor]:
    assert task.adapter is not None
    return {name: tensor.clone() for name, tensor in task.adapter.state_dict().items()}


def test_scores_equal_a_test_of_the_base_and_of_the_trained_model(
    folder: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback, task, data = BeforeAfter(), make_task(folder), SmallData()
    untouched = make_trainer(root).test(make_task(folder), datamodule=SmallData(), verbose=False)[0]
    make_trainer(root, callback, tensorboard=True).fit(task, datamodule=data)
    trained = make_trainer(root).test(task, datamodule=data, verbose=False)[0]
    metrics = callback.report()["metrics"]
    for when, expected in (("before", untouched), ("after", trained)):
        assert metrics[when] == {
            name.removeprefix("test/"): pytest.approx(value, rel=1e-6) for name, value in expected.items()
        }
    assert metrics["after"]["loss"] != metrics["before"]["loss"]
    assert [row["id"] for row in callback.report()["samples"]] == [0, 1, 2]
    for when in ("before", "after"):
        assert len((root / "predictions" / f"{when}.jsonl").read_text().splitlines()) == 8
        assert len(scalars(root)[f"{when}/loss"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("before", "after"))]
    assert len(lines) == 2
    assert lines[0].startswith("before: exact_match ")
    assert lines[0].endswith("(8 samples)")


def test_training_is_not_affected(folder: Path, tmp_path: Path) -> None:
    class WithDropout(CausalLMTask):
        def build_backbone(self, meta: bool = False) -> torch.nn.Module:
            model = super().build_backbone(meta)
            model.model.layers[0].self_attn.attention_dropout = 0.3  # type: ignore[union-attr]
            return model

        def on_train_start(self) -> None:
            self.model.model.norm.eval()  # one part that someone keeps in eval mode

    results, modes = [], []
    for name, callbacks in (("without", ()), ("with", (BeforeAfter(),))):
        torch.manual_seed(7)
        task = WithDropout(str(folder), max_new_tokens=3)
        make_trainer(tmp_path / name, *callbacks).fit(task, datamodule=SmallData())
        results.append(weights(task))
        modes.append([module.training for module in task.model.modules()])
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert modes[0] == modes[1]


@pytest.mark.parametrize(("limit", "batches", "expected"), [(3, 1.0, 3), (6, 1.0, 6), (None, 1, 4), (None, 0.5, 4)])
def test_limits(
    folder: Path, root: Path, capsys: pytest.CaptureFixture[str], limit: int | None, batches: float, expected: int
) -> None:
    callback = BeforeAfter(limit=limit)
    make_trainer(root, callback, max_steps=1, limit_test_batches=batches).fit(make_task(folder), datamodule=SmallData())
    assert f"({expected} samples)" in capsys.readouterr().out
    assert len((root / "predictions" / "after.jsonl").read_text().splitlines()) == expected


def test_a_long_evaluation_says_how_far_it_is(
    folder: Path, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(before_after, "SECONDS_BETWEEN_LINES", 0.0)
    make_trainer(root, BeforeAfter(), max_steps=1).fit(make_task(folder), datamodule=SmallData())
    printed = capsys.readouterr().out
    assert "before: 4 samples scored so far\nbefore: 8 samples scored so far\nbefore: exact_match" in printed


def test_a_resumed_run_keeps_the_scores_of_its_start(folder: Path, root: Path) -> None:
    first, second = BeforeAfter(), BeforeAfter()
    make_trainer(root, first, AdapterCheckpoint(), enable_checkpointing=True).fit(
        make_task(folder), datamodule=SmallData()
    )
    trainer = make_trainer(root, second, AdapterCheckpoint(), enable_checkpointing=True, max_epochs=2)
    trainer.fit(make_task(folder), datamodule=SmallData(), ckpt_path=str(root / "checkpoints" / "last.ckpt"))
    assert second.report()["metrics"]["before"] == first.report()["metrics"]["before"]
    assert second.report()["metrics"]["after"] != first.report()["metrics"]["after"]


def test_validation_split_and_fast_dev_run(folder: Path, root: Path) -> None:
    callback = BeforeAfter(split="val")
    make_trainer(root, callback, fast_dev_run=True, max_epochs=None).fit(make_task(folder), datamodule=SmallData())
    assert set(callback.report()["metrics"]) == {"before", "after"}
    assert list(root.iterdir()) == []


class NoScores(CausalLMTask):
    def new_evaluation(self) -> Evaluation:
        return None  # type: ignore[return-value]


def test_errors_say_the_way_out(folder: Path, root: Path) -> None:
    with pytest.raises(ValueError, match=r"limit must be at least 1 \(or null for all samples\), got 0"):
        BeforeAfter(limit=0)
    with pytest.raises(ValueError, match=r"BeforeAfter needs a task derived from wegeft_pl.tasks.FineTuneTask"):
        BeforeAfter().setup(make_trainer(root), LightningModule(), "fit")
    batches: DataLoader = SmallData().train_dataloader()
    with pytest.raises(ValueError, match="scores the data module's test loader; pass a datamodule to the trainer"):
        make_trainer(root, BeforeAfter()).fit(make_task(folder), batches)
    task = NoScores(str(folder), generate=False)
    with pytest.raises(ValueError, match="NoScores has no evaluation; override new_evaluation, or drop BeforeAfter"):
        make_trainer(root, BeforeAfter(), limit_val_batches=0).fit(task, datamodule=SmallData())


class LongestFirst(SmallData):
    """Rows in an order that is not the data's, as text is served."""

    def test_dataloader(self) -> DataLoader:
        batch = make_batch(0, 4) | {"id": [9, 2, 7, -1]}
        return loader([batch, make_batch(0, 4) | {"id": [4, 12, 3, 8]}])


@pytest.mark.parametrize(
    ("limit", "expected"), [(1, [2]), (3, [2, 3, 4]), (5, [2, 3, 4, 7, 8]), (99, [2, 3, 4, 7, 8, 9, 12])]
)
def test_the_limit_takes_the_first_rows_of_the_data(
    folder: Path, root: Path, capsys: pytest.CaptureFixture[str], limit: int, expected: list[int]
) -> None:
    make_trainer(root, BeforeAfter(limit=limit), max_steps=1).fit(make_task(folder), datamodule=LongestFirst())
    lines = (root / "predictions" / "after.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == expected
    assert f"({len(expected)} samples)" in capsys.readouterr().out


class NoIds(SmallData):
    def test_dataloader(self) -> DataLoader:
        return loader(
            [{n: make_batch(first, 4)[n] for n in ("input_ids", "attention_mask", "labels")} for first in (0, 4)]
        )


def test_a_limit_without_ids_takes_the_first_rows_of_the_loader(
    folder: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trainer(root, BeforeAfter(limit=6), max_steps=1).fit(make_task(folder), datamodule=NoIds())
    assert "(6 samples)" in capsys.readouterr().out


def test_samples_reach_tensorboard(folder: Path, root: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(root, BeforeAfter(), tensorboard=True).fit(make_task(folder), datamodule=SmallData())
    tags = EventAccumulator(str(root / "tensorboard")).Reload().Tags()["tensors"]
    assert {"samples/before/text_summary", "samples/after/text_summary"} <= set(tags)
