from __future__ import annotations

import dataclasses
import inspect
import typing
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule
from small_run import SmallData, make_task, make_trainer

from wegeft_pl import AdapterConfig
from wegeft_pl.callbacks import WeGeFTInjector


def test_parameters_are_the_fields_of_the_config() -> None:
    parameters = dict(inspect.signature(WeGeFTInjector.__init__).parameters)
    del parameters["self"]
    hints, expected = typing.get_type_hints(WeGeFTInjector.__init__), typing.get_type_hints(AdapterConfig)
    fields = dataclasses.fields(AdapterConfig)
    assert list(parameters) == [field.name for field in fields]
    for field in fields:
        assert hints[field.name] == expected[field.name]
        if field.default is not dataclasses.MISSING:
            assert parameters[field.name].default == field.default
        assert f"        {field.name}: " in (WeGeFTInjector.__doc__ or "")


def test_config_is_checked_when_the_callback_is_made() -> None:
    assert WeGeFTInjector(["q_proj"], 4, 8.0, also_train=["norm"]).config() == AdapterConfig(
        ["q_proj"], rank=4, alpha=8.0, also_train=["norm"]
    )
    with pytest.raises(ValueError, match="sharing: 'tpye' is not one of type, all, layer"):
        WeGeFTInjector(["q_proj"], sharing="tpye")  # type: ignore[arg-type]


def test_injects_through_the_trainer(folder: Path, root: Path) -> None:
    task = make_task(folder)
    make_trainer(root, max_steps=1).fit(task, datamodule=SmallData())
    assert task.adapter is not None
    assert [group.name for group in task.adapter.groups] == ["q_proj", "down_proj"]


def test_other_modules_are_told_to_derive(root: Path) -> None:
    message = r"WeGeFTInjector needs a task derived from wegeft_pl.tasks.FineTuneTask, got LightningModule; derive"
    with pytest.raises(ValueError, match=message):
        WeGeFTInjector(["q_proj"]).setup(make_trainer(root), LightningModule(), "fit")
