from __future__ import annotations

from pathlib import Path

import pytest
from small_run import SmallData, injector, make_task, make_trainer, scalars

from wegeft_pl.adapter.storage import read_tensors
from wegeft_pl.callbacks import AdapterSaver, ParameterAccounting


def test_counts_table_and_scalars(folder: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accounting, task = ParameterAccounting(), make_task(folder)
    trainer = make_trainer(root, accounting, AdapterSaver(), tensorboard=True, max_steps=1)
    trainer.fit(task, datamodule=SmallData())
    report = accounting.report()["parameters"]
    trainable = 2 * 4 * 16 + 2 * 4 * 24  # q_proj and down_proj: 2 R I each
    assert report["groups"] == {"q_proj": 128, "down_proj": 192}
    assert report["trainable"] == report["adapter"] == trainable == 320
    frozen = sum(p.numel() for p in task.parameters() if not p.requires_grad)
    assert report["frozen"] == frozen
    assert report["percent_of_frozen"] == pytest.approx(100 * trainable / frozen)
    saved = read_tensors(root / "adapter" / "adapter.safetensors")
    assert report["adapter_bytes"] == sum(tensor.nbytes for tensor in saved.values()) == 4 * trainable
    assert scalars(root)["parameters/trainable"] == [320]
    printed = capsys.readouterr().out
    assert "q_proj" in printed
    assert f"{frozen:,}" in printed
    assert max(len(line) for line in printed.splitlines()) <= 80


def test_by_layer_shows_types(folder: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accounting = ParameterAccounting(max_rows=3)
    trainer = make_trainer(root, accounting, max_steps=1)
    trainer.callbacks[0] = injector(sharing="layer", also_train=["lm_head"])  # type: ignore[attr-defined]
    trainer.fit(make_task(folder), datamodule=SmallData())
    report = accounting.report()["parameters"]
    assert report["types"] == {"model.layers.*.self_attn.q_proj": 256, "model.layers.*.mlp.down_proj": 384}
    assert report["head"] == 47 * 16
    printed = capsys.readouterr().out
    assert "model.layers.*.self_attn.q_proj" in printed
    assert "layers.1" not in printed
    assert "trained in full" in printed
