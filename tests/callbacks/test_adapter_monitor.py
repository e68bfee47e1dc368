from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_run import SmallData, injector, make_task, make_trainer, scalars
from torch import Tensor

from wegeft_pl.callbacks import AdapterMonitor
from wegeft_pl.generators import LinearGenerator


def test_logs_the_largest_singular_value_of_each_group(folder: Path, root: Path) -> None:
    monitor, task = AdapterMonitor(every_n_steps=3), make_task(folder)
    make_trainer(root, monitor, tensorboard=True).fit(task, datamodule=SmallData())
    assert task.adapter is not None
    reported = monitor.report()["adapter"]["sigma_max"]
    for group in task.adapter.groups:
        product = 2.0 * group.generator.phi.detach().double() @ group.generator.psi.detach().double()
        assert reported[group.name] == pytest.approx(float(torch.linalg.svdvals(product)[0]), rel=1e-10)
        assert len(scalars(root)[f"adapter/sigma_max/{group.name}"]) == 3  # steps 3, 6 and the last, 8


class Squared(LinearGenerator):
    """Nonlinear in W phi, so sigma_max(phi psi) says nothing about it."""

    can_edit = False

    def forward(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
        left, right = super().forward(weight_OI)
        return left.square(), right


def test_nonlinear_generators_are_left_out_and_named(
    folder: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor, task = AdapterMonitor(), make_task(folder)
    trainer = make_trainer(root, monitor, max_steps=2)
    trainer.callbacks[0] = injector(generator=Squared)  # type: ignore[attr-defined]
    with caplog.at_level("INFO"):
        trainer.fit(task, datamodule=SmallData())
    assert monitor.report() == {}
    assert "AdapterMonitor leaves out q_proj, down_proj: sigma_max" in caplog.text


def test_needs_an_adapter(folder: Path, root: Path) -> None:
    trainer = make_trainer(root, AdapterMonitor())
    del trainer.callbacks[0]  # type: ignore[attr-defined]
    task = make_task(folder)
    with pytest.raises(ValueError, match="AdapterMonitor needs an adapter and this run has none; add"):
        trainer.fit(task, datamodule=SmallData())


def test_every_n_steps_is_positive() -> None:
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        AdapterMonitor(every_n_steps=0)
