"""A layer that the forward goes around is an error at the first step, not a run that trains nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tasks.tiny_task import trainer
from torch import nn
from torch.utils.data import DataLoader

from wegeft_pl import AdapterConfig
from wegeft_pl.distributed import EveryRankError
from wegeft_pl.tasks import FineTuneTask


class Block(nn.Module):
    """Reads the weight of ``around`` without calling it, as fused kernels do."""

    def __init__(self, uses_called: bool) -> None:
        super().__init__()
        self.called, self.around, self.uses_called = nn.Linear(4, 4), nn.Linear(4, 4), uses_called

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.called(x) if self.uses_called else x) @ self.around.weight.T


class Around(FineTuneTask):
    def __init__(self, *uses_called: bool) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"blocks": nn.ModuleList(Block(used) for used in uses_called)})

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        assert self.backbone is not None
        for block in self.backbone["blocks"]:  # type: ignore[index]
            batch = block(batch)
        return batch.square().mean()


def fit(task: Around, folder: Path, targets: list[str], sharing: str) -> None:
    task.use_adapter(AdapterConfig(targets, rank=2, sharing=sharing))  # type: ignore[arg-type]
    trainer(folder, max_steps=12).fit(task, DataLoader(torch.ones(48, 4), batch_size=4))


@pytest.mark.parametrize("sharing", ["type", "layer"])
def test_a_layer_that_is_never_called_is_an_error(tmp_path: Path, sharing: str) -> None:
    message = r"no gradient at blocks.0.around, blocks.1.around: the model's forward does not call .* of the targets"
    warned = pytest.warns(UserWarning, match=f"the first step left {message}")
    with warned, pytest.raises(EveryRankError, match=f"the first 10 steps left {message}"):
        fit(Around(True, True), tmp_path, ["called", "around"], sharing)


def test_a_layer_that_the_first_batches_do_not_need_is_a_warning(tmp_path: Path) -> None:
    class Later(Around):
        def __init__(self) -> None:
            super().__init__(True)
            assert self.backbone is not None
            self.backbone["tower"] = nn.Linear(4, 4)  # type: ignore[operator]

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            assert self.backbone is not None
            seen = self.backbone["tower"](batch) if batch_idx >= 8 else batch  # type: ignore[index]
            return super().training_step(seen, batch_idx)

    task = Later()
    with pytest.warns(
        UserWarning, match=r"the first step left no gradient at tower: the model's forward does not call"
    ):
        fit(task, tmp_path, ["called", "tower"], "type")
    assert task.trainer.global_step == 12


def test_a_layer_that_one_step_left_out_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no gradient at blocks.1.called; other blocks' layers of the kind have one"):
        fit(Around(True, False), tmp_path, ["called"], "layer")


def test_layers_that_are_called_pass(tmp_path: Path) -> None:
    task = Around(True, True)
    fit(task, tmp_path, ["called"], "layer")
    assert task.trainer.global_step == 12
