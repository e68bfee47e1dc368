from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_run import SmallData, injector, make_task, make_trainer

from wegeft_pl.adapter import Adapter
from wegeft_pl.callbacks import AdapterMonitor, SpectralCap
from wegeft_pl.generators import SigmoidGenerator


def largest(adapter: Adapter) -> dict[str, float]:
    """sigma_max(s phi psi) by the full product."""
    values = {}
    for group in adapter.groups:
        product = adapter.config.scale * group.generator.phi.detach().double() @ group.generator.psi.detach().double()
        values[group.name] = float(torch.linalg.svdvals(product)[0])
    return values


class Watch(AdapterMonitor):
    """Listed behind the cap: sees each step's value."""

    def __init__(self) -> None:
        super().__init__(every_n_steps=1)
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append(largest(pl_module.adapter))


def test_holds_the_cap_at_every_step(folder: Path, root: Path) -> None:
    free, task = Watch(), make_task(folder)
    make_trainer(root, free).fit(task, datamodule=SmallData())
    uncapped = largest(task.adapter)
    cap = 0.5 * min(uncapped.values())
    watch, capped, task = Watch(), SpectralCap(cap), make_task(folder)
    make_trainer(root, capped, watch).fit(task, datamodule=SmallData())
    assert len(watch.seen) == 8
    assert all(value <= cap * (1 + 1e-12) for step in watch.seen for value in step.values())
    assert max(watch.seen[-1].values()) > 0.99 * cap  # it trains up to the cap, and not less
    report = capped.report()["adapter"]["sigma_cap"]
    assert report["cap"] == cap
    assert report["projected_steps"].keys() == uncapped.keys()
    assert all(0 < steps < 8 for steps in report["projected_steps"].values())


def test_a_cap_that_is_not_met_changes_nothing(folder: Path, root: Path) -> None:
    states = []
    for callbacks in ([], [SpectralCap(1e3)]):
        torch.manual_seed(0)
        task = make_task(folder)
        make_trainer(root, *callbacks).fit(task, datamodule=SmallData())
        states.append(task.adapter.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert callbacks[0].report() == {"adapter": {"sigma_cap": {"cap": 1e3, "projected_steps": {}}}}


def test_projects_once_for_each_optimiser_step(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    monkeypatch.setattr(
        "wegeft_pl.callbacks.spectral_cap.cap_spectrum", lambda adapter, cap: calls.append(cap) or {"q_proj": 1.0}
    )
    callback = SpectralCap(2.0)
    make_trainer(root, callback, accumulate_grad_batches=4).fit(make_task(folder), datamodule=SmallData())
    assert calls == [2.0] * 3  # at the start, and after two steps of four batches
    assert callback.report()["adapter"]["sigma_cap"]["projected_steps"] == {"q_proj": 2}


def test_refusals(folder: Path, root: Path) -> None:
    with pytest.raises(ValueError, match=r"cap must be positive, got 0; it bounds"):
        SpectralCap(0)
    trainer = make_trainer(root, SpectralCap(1.0))
    trainer.callbacks[0] = injector(generator=SigmoidGenerator, zero="psi")
    with pytest.raises(ValueError, match="bounds the change of linear generators only, and this is a SigmoidGenerator"):
        trainer.fit(make_task(folder), datamodule=SmallData())
    trainer = make_trainer(root, SpectralCap(1.0))
    del trainer.callbacks[0]
    with pytest.raises(ValueError, match="SpectralCap needs an adapter and this run has none; add"):
        trainer.fit(make_task(folder), datamodule=SmallData())


def test_a_moving_average_is_refused(folder: Path, root: Path) -> None:
    from tasks.tiny_images import Colours
    from tasks.tiny_images import make_task as make_image_task

    trainer = make_trainer(root, SpectralCap(1.0))
    with pytest.raises(ValueError, match=r"SpectralCap and ema_decay: the cap would hold for the average and not for"):
        trainer.fit(make_image_task(ema_decay=0.9), datamodule=Colours())
