from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file
from small_run import SmallData, make_task, make_trainer
from torch import Tensor

from wegeft_pl.callbacks import AdapterCheckpoint, AdapterSaver, BestAdapter
from wegeft_pl.distributed import EveryRankError


class Scripted(Callback):
    """Logs made-up validation scores, and keeps what the adapter was at each."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)
        self.states: list[dict[str, Tensor]] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/score", self.scores[len(self.states) % len(self.scores)])
        assert pl_module.adapter is not None  # type: ignore[union-attr]
        self.states.append({k: v.clone() for k, v in pl_module.adapter.state_dict().items()})  # type: ignore[union-attr]


def run(folder: Path, root: Path, scores: list[float], *more: Callback, **fields: Any) -> tuple[Scripted, BestAdapter]:
    scripted = Scripted(*scores)
    best = BestAdapter(**({"monitor": "val/score"} | fields.pop("best", {})))
    trainer = make_trainer(root, best, AdapterSaver(), scripted, *more, val_check_interval=2, **fields)
    trainer.fit(make_task(folder, generate=False), datamodule=SmallData())
    return scripted, best


@pytest.mark.parametrize(
    ("scores", "mode", "winner"),
    [
        ([1, 3, 3, 2], "max", 1),
        ([1, 3, 0.5, 2], "min", 2),
        ([1, 2, 3, 4], "max", 3),
        ([float("nan"), 1, 0, 0], "max", 1),
    ],
)
def test_the_best_adapter_is_the_one_that_is_saved(
    folder: Path, root: Path, scores: list[float], mode: str, winner: int
) -> None:
    scripted, best = run(folder, root, scores, best={"mode": mode})
    saved = load_file(root / "adapter" / "adapter.safetensors")
    assert saved.keys() == scripted.states[winner].keys()
    for name, tensor in saved.items():
        assert torch.equal(tensor, scripted.states[winner][name])
        others = [state for index, state in enumerate(scripted.states) if index != winner]
        assert not any(torch.equal(tensor, other[name]) for other in others)
    value = scores[winner]
    wanted = {"monitor": "val/score", "value": value, "step": 2 * winner + 2, "restored": winner != 3}
    assert best.report() == {"best": wanted}
    assert json.dumps(best.report())


def test_patience_stops_the_run(folder: Path, root: Path) -> None:
    scripted, _ = run(folder, root, [1, 1.05, 1.1, 1.2], best={"patience": 2, "min_delta": 0.2})
    assert len(scripted.states) == 3


def test_checkpoints_go_on_from_the_last_step_and_know_the_best(folder: Path, root: Path) -> None:
    scripted, _ = run(folder, root, [1, 9, 3, 2], AdapterCheckpoint(), enable_checkpointing=True)
    checkpoint = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)
    for name, tensor in scripted.states[3].items():
        assert torch.equal(checkpoint["state_dict"][f"backbone.{name}"], tensor)
    resumed, best = Scripted(1, 2, 3, 4), BestAdapter("val/score")
    trainer = make_trainer(
        root, best, AdapterSaver(), resumed, AdapterCheckpoint(), val_check_interval=2, max_epochs=2,
        enable_checkpointing=True,
    )  # fmt: skip
    trainer.fit(
        make_task(folder, generate=False), datamodule=SmallData(), ckpt_path=root / "checkpoints" / "last.ckpt",
        weights_only=True,
    )  # fmt: skip
    assert best.report()["best"]["value"] == 9
    saved = load_file(root / "adapter" / "adapter.safetensors")
    assert all(torch.equal(tensor, scripted.states[1][name]) for name, tensor in saved.items())


def test_a_value_that_nobody_logs_is_an_error(folder: Path, root: Path) -> None:
    with pytest.raises(EveryRankError, match=r"validation logged no 'val/accuracy'; it logged .*val/score"):
        run(folder, root, [1], best={"monitor": "val/accuracy"})


def test_a_run_without_validation_is_warned_of(folder: Path, root: Path) -> None:
    trainer = make_trainer(root, BestAdapter("val/score"), AdapterSaver(), limit_val_batches=0)
    with pytest.warns(UserWarning, match=r"BestAdapter: no validation ran, .* hold rows out with data.val_size, or"):
        trainer.fit(make_task(folder, generate=False), datamodule=SmallData())


def test_the_sanity_check_finds_a_misspelt_value_before_training(folder: Path, root: Path) -> None:
    trainer = make_trainer(root, BestAdapter("val/scroe"), Scripted(1), num_sanity_val_steps=1)
    with pytest.raises(EveryRankError, match=r"validation logged no 'val/scroe'; it logged .*val/score"):
        trainer.fit(make_task(folder, generate=False), datamodule=SmallData())
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "most"}, "mode must be max or min, got 'most'"),
        ({"patience": 0}, "patience must be at least 1 validation"),
        ({"min_delta": -1.0}, "min_delta must not be negative, got -1.0"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BestAdapter("val/score", **fields)


def test_other_modules_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="BestAdapter needs a task derived from"):
        BestAdapter("x").setup(make_trainer(root), LightningModule(), "fit")
