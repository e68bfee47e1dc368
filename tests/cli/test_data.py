"""`wegeft_pl data`: what a recipe's data becomes, on the screen and as JSON, for text and anything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.conftest import Cli
from PIL import Image
from rich.console import Console

from wegeft_pl.cli.data_report import print_preview

TEXT = """\
model:
  class_path: wegeft_pl.tasks.CausalLMTask
  init_args: {backbone: model}
data:
  class_path: wegeft_pl.data.GSM8KDataModule
  init_args: {path: problems, batch_size: 2, max_length: 64, prompt: qa}
"""


@pytest.fixture
def problems(folder: Path, llama_folder: Path) -> Path:
    """A recipe for the tiny Llama and eight rows, one of them too long."""
    llama_folder.rename(folder / "model")
    (folder / "problems").mkdir()
    rows = [
        {"question": f"{number}?", "answer": "1" * number + f"\n#### {number}"} for number in (1, 2, 3, 4, 5, 6, 7, 40)
    ]
    (folder / "problems" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "text.yaml").write_text(TEXT)
    return folder / "problems"


def test_json_has_counts_samples_lengths_and_padding(problems: Path, cli: Cli) -> None:
    outcome = cli("data", "--config", "text.yaml", "--json", "--samples", "8")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)  # and nothing else on standard output
    assert "1 of 8 rows cut at data.max_length=64" in outcome.err
    assert facts["data"]["rows"] == {"train": 8}
    assert facts["data"]["truncated"] == {"train": 1}
    assert facts["text"]["eos_learned"] == 7
    assert len(facts["text"]["samples"]) == 8
    first = facts["text"]["samples"][0]["parts"]
    assert [part["learned"] for part in first] == [False, True]
    assert first[1]["text"].replace(" ", "") == "1\n####1</s>"
    assert set(facts["text"]["padding"]) == {"shuffled", "group_by_length", "packing"}
    assert not list(Path().glob("runs/*"))


def test_tables_and_marks(problems: Path, cli: Cli) -> None:
    outcome = cli("data", "--config", "text.yaml", "--data.batch_size", "4", "--samples", "1")
    assert outcome.code == 0, outcome.err
    for expected in (
        "GSM8KDataModule: problems",
        "truncated",
        "template 'Question: {question}\\nAnswer:\\n'",
        "EOS '</s>' is learned in 7 of 8 rows (yes)",
        "twice in 0 (doubled: no)",
        "tokens a row (train): ",
        "padding in an epoch's batches: as they come",
        "batch input_ids: int64 (4, ",
        "sample 1: row",
        "{+",
    ):
        assert expected in outcome.out


def test_colours_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, width=100)
    parts = [{"text": "[asked]", "learned": False}, {"text": "answered", "learned": True}]
    text = {
        "split": "train", "samples": [{"row": 3, "tokens": 2, "truncated": True, "parts": parts}], "looked_at": 1,
        "learned_tokens": 1, "tokens": 2, "eos": None, "eos_learned": 0, "bos": None, "bos_first": 0, "bos_doubled": 0,
        "lengths": {"least": 2, "median": 2, "percentile_95": 2, "greatest": 2, "histogram": [[1, 1, 0], [2, 2, 1]]},
        "padding": {"shuffled": 0.5},
    }  # fmt: skip
    print_preview({"data": {"name": "it", "path": None}, "batch": {}, "text": text}, console)
    out = capsys.readouterr().out
    assert "\x1b[2m[asked]\x1b[0m\x1b[1;32manswered\x1b[0m" in out
    assert "row 3, 2 tokens, cut" in out
    assert "{+" not in out


def test_a_broken_row_is_one_line(problems: Path, cli: Cli) -> None:
    with (problems / "train.jsonl").open("a") as file:
        file.write('{"question": "9?"}\n')
    outcome = cli("data", "--config", "text.yaml")
    assert outcome.code == 1
    assert outcome.err.startswith("wegeft_pl: problems/train.jsonl:9: no column 'answer'")


def test_images_have_a_plain_summary(folder: Path, cli: Cli) -> None:
    for split, counts in {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 1}}.items():
        for name, count in counts.items():
            (folder / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 16), (number, 9, 9)).save(folder / "images" / split / name / f"{number}.png")
    (folder / "images.yaml").write_text(
        "model:\n  class_path: tiny_recipe.CausalLM\n  init_args: {backbone: linear}\n"
        "data:\n  class_path: wegeft_pl.data.ImageFolderDataModule\n"
        "  init_args: {path: images, image_size: 8, batch_size: 2, normalization: half, num_workers: 0, "
        "cache_pixels: false}\n"
    )
    outcome = cli("data", "--config", "images.yaml", "--json")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert facts["class_counts"] == {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 1}}
    assert facts["batch"]["pixel_values"] == "float32 (2, 3, 8, 8)"
    shown = cli("data", "--config", "images.yaml")
    assert "pixel_values: float32 (2, 3, 8, 8)" in shown.out
    assert "cat" in shown.out


def test_errors(folder: Path, cli: Cli) -> None:
    outcome = cli("data", "--config", "my.yaml")
    assert outcome.code != 0
    assert "data: Ones shows nothing of itself; derive it from FineTuneDataModule" in outcome.err
    outcome = cli("data", "--config", "my.yaml", "--samples", "-1")
    assert "--samples must be at least 0, got -1" in outcome.err
