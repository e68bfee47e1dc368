from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_run import SmallData, make_task, make_trainer

from wegeft_pl.callbacks import SampleWriter
from wegeft_pl.callbacks.predictions import PredictionFile
from wegeft_pl.tasks import Prediction


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_validation_writes_a_file(folder: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = SampleWriter(num_console=1)
    trainer = make_trainer(root, writer, tensorboard=True, val_check_interval=4, num_sanity_val_steps=1)
    trainer.fit(make_task(folder), datamodule=SmallData())
    assert sorted(path.name for path in (root / "predictions").iterdir()) == ["val-step4.jsonl", "val-step8.jsonl"]
    found = rows(root / "predictions" / "val-step8.jsonl")
    assert [row["id"] for row in found] == list(range(8))
    assert set(found[0]) == {"id", "prompt", "output", "reference", "extracted", "correct"}
    report = writer.report()
    assert report == {"paths": {"predictions": {"val": str(root / "predictions" / "val-step8.jsonl")}}}
    printed = capsys.readouterr().out
    assert printed.count("question 0") == 2
    assert "question 1" not in printed


def test_testing(folder: Path, root: Path) -> None:
    writer = SampleWriter(num_console=0)
    make_trainer(root, writer).test(make_task(folder), datamodule=SmallData(), verbose=False)
    assert len(rows(root / "predictions" / "test-step0.jsonl")) == 8
    assert [row["id"] for row in writer.report()["samples"]] == [0, 1, 2]


class Asks(SmallData):
    def predict_dataloader(self) -> Any:
        return self.test_dataloader()


def test_prediction(folder: Path, root: Path) -> None:
    make_trainer(root, SampleWriter(num_console=0)).predict(make_task(folder), datamodule=Asks())
    assert len(rows(root / "predictions" / "predict-step0.jsonl")) == 8


def test_without_answers_there_is_no_file(folder: Path, root: Path) -> None:
    writer = SampleWriter()
    make_trainer(root, writer, max_steps=1).fit(make_task(folder, generate=False), datamodule=SmallData())
    assert writer.report() == {}
    assert not list(root.rglob("*.jsonl*"))


def test_parts_of_ranks_are_joined_and_repeats_dropped(root: Path) -> None:
    class TwoRanks:
        world_size, is_global_zero = 2, True
        strategy = type("Strategy", (), {"barrier": lambda self, name: None})()

    def prediction(number: int, output: str) -> Prediction:
        return Prediction(number, "prompt", output, "1", {}, {})

    path = root / "predictions" / "test-step0.jsonl"
    first, second = PredictionFile(path, 0), PredictionFile(path, 1)
    first.add([prediction(2, "a"), prediction(0, "\u00e9")])
    second.add([prediction(1, "b"), prediction(2, "again")])
    joined = first.join(TwoRanks())  # type: ignore[arg-type]
    assert [(row["id"], row["output"]) for row in joined] == [(0, "\u00e9"), (1, "b"), (2, "a")]
    assert rows(path) == joined
    assert [file.name for file in path.parent.iterdir()] == ["test-step0.jsonl"]
