"""Tables of labelled texts as a data module: splits, classes, batches, resuming, and what is said."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from word_tokenizer import bert_like

from wegeft_pl.data import TextClassificationDataModule
from wegeft_pl.data.place import training_data

Make = Callable[..., TextClassificationDataModule]


def write(file: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label")) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join("\t".join(map(str, row)) + "\n" for row in [header, *rows]), encoding="utf-8")


def reviews(number: int, first: int = 0) -> list[tuple[str, str]]:
    """Texts that are all different, a third of them bad."""
    return [(f"film {row} " + "is " * (row % 5) + "good", "bad" if row % 3 == 0 else "good") for row in range(first, first + number)]  # fmt: skip  # noqa: E501


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "reviews/train.tsv", reviews(20))
    write(tmp_path / "reviews/dev.tsv", reviews(6, 100))
    write(tmp_path / "reviews/test.tsv", reviews(7, 200))
    return tmp_path / "reviews"


@pytest.fixture
def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a data module with a small tokenizer."""
    tokenizer = bert_like()

    def make(path: Path = folder, **fields: Any) -> TextClassificationDataModule:
        module = TextClassificationDataModule(**{"path": str(path), "batch_size": 4, **fields})
        monkeypatch.setattr(module, "resolve_tokenizer", lambda: tokenizer)
        return module

    return make


def indices(loader: Any) -> list[int]:
    return [int(index) for batch in loader for index in batch["indices"]]


def test_splits_classes_and_batches(make: Make) -> None:
    module = make()
    module.setup("fit")
    assert (module.class_names, module.num_classes, module.is_regression) == (["bad", "good"], 2, False)
    batches = list(module.train_dataloader())
    assert set(batches[0]) == {"input_ids", "attention_mask", "token_type_ids", "labels", "indices"}
    assert sorted(indices(batches)) == list(range(20))
    labels = {int(index): int(label) for batch in batches for index, label in zip(batch["indices"], batch["labels"], strict=True)}  # fmt: skip  # noqa: E501
    assert labels == {row: int(row % 3 != 0) for row in range(20)}
    longest = [int(batch["attention_mask"].sum(1).max()) for batch in batches]
    assert [batch["input_ids"].shape[1] for batch in batches] == longest
    assert module.describe()["rows"] == {"train": 20, "val": 6}


def test_validation_and_test_run_longest_text_first(make: Make) -> None:
    module = make()
    module.setup("test")
    lengths = [int(length) for batch in module.test_dataloader() for length in batch["attention_mask"].sum(1)]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(indices(module.test_dataloader())) == sorted(indices(module.predict_dataloader())) == list(range(7))


def test_batches_of_similar_length_pad_less_and_hold_the_same_rows(make: Make) -> None:
    padding = {}
    for group in (False, True):
        module = make(group_by_length=group)
        module.setup("fit")
        batches = list(module.train_dataloader())
        assert sorted(indices(batches)) == list(range(20))
        padding[group] = sum(int((batch["attention_mask"] == 0).sum()) for batch in batches)
    assert padding[True] < padding[False]


def test_classes_are_known_before_any_tokenizer(folder: Path) -> None:
    assert TextClassificationDataModule(str(folder)).num_classes == 2


def test_counts_hashes_and_overlap_are_described_and_said(
    make: Make, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "test.tsv", [*reviews(5, 200), *reviews(2, 3)])
    write(folder / "notes.tsv", [])
    module = make(max_length=6)
    module.setup()
    description = json.loads(json.dumps(module.describe()))
    assert description["class_counts"]["train"] == {"bad": 7, "good": 13}
    assert description["also_in_train"] == {"val": 0, "test": 2}
    assert description["truncated"]["train"] == sum(len(text.split()) + 2 > 6 for text, _ in reviews(20))
    assert set(training_data(description)["sha256"]) == {"train"}
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "not used: notes.tsv",
        "train: 20 rows, bad: 7, good: 13 (largest class 65.0 %); 12 cut at data.max_length=6",
        "val: 6 rows, bad: 2, good: 4 (largest class 66.7 %); 3 cut at data.max_length=6",
        "test: 7 rows, bad: 3, good: 4 (largest class 57.1 %); 5 cut at data.max_length=6; the same text is in train "
        "for 2 of them",
    ]


def test_a_single_table_gives_up_a_tenth_for_validation_and_one_for_test(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "all.tsv", reviews(60))
    module = make(tmp_path / "all.tsv")
    module.setup()
    parts = [
        indices(loader) for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
    ]
    assert [len(part) for part in parts] == [48, 6, 6]
    assert sorted(row for part in parts for row in part) == list(range(60))
    for part in parts[1:]:
        assert Counter("bad" if row % 3 == 0 else "good" for row in part) == {"bad": 2, "good": 4}
    assert "val: 6 rows held out of train (seed 42; data.val_size)" in capsys.readouterr().out
    again = make(tmp_path / "all.tsv", val_size=20)
    again.setup()
    assert indices(again.test_dataloader()) == parts[2]
    other = make(tmp_path / "all.tsv", seed=1)
    other.setup()
    assert indices(other.test_dataloader()) != parts[2]


def test_no_part_is_held_out_where_the_size_is_zero(make: Make, tmp_path: Path) -> None:
    write(tmp_path / "all.tsv", reviews(60))
    module = make(tmp_path / "all.tsv", val_size=0, test_size=0)
    module.setup("fit")
    assert len(indices(module.train_dataloader())) == 60
    assert len(module.val_dataloader()) == 0
    with pytest.raises(ValueError, match=r"test needs test rows, .* has none; add a table with test in its name"):
        module.setup("test")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"val_size": 3},
            r"data.val_size=3 holds rows out of train, but .* has val rows of its own; leave",
        ),
        ({"val_size": -1}, "data.val_size must be at least 0, got -1"),
        ({"limit_test": 0}, "data.limit_test must be at least 1, got 0"),
        ({"max_length": 2}, "data.max_length must be at least 3 with this tokenizer, got 2"),
        ({"path": None}, "data.path is null; give a table"),
        ({"label_column": "text"}, "texts and label must be in columns of their own, got 'text' and 'text'"),
    ],
)
def test_settings_that_cannot_be(make: Make, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        (TextClassificationDataModule(**fields).num_classes if "path" in fields else make(**fields).setup())


def test_too_many_rows_held_out(make: Make, tmp_path: Path) -> None:
    write(tmp_path / "all.tsv", reviews(9))
    with pytest.raises(ValueError, match=r"data.val_size=8 and data.test_size=0 are too many: at most 7 of 9 rows"):
        make(tmp_path / "all.tsv", val_size=8, test_size=0).setup("fit")


def test_a_label_of_its_own_in_every_row(make: Make, tmp_path: Path) -> None:
    write(tmp_path / "all.tsv", [(f"film {number}", f"label {number}") for number in range(20)])
    with pytest.raises(ValueError, match=r"each of 20 classes keeps one; lower them, or name another data.label_col"):
        make(tmp_path / "all.tsv").setup("fit")


def test_a_label_of_validation_that_train_has_not_is_named(make: Make, folder: Path) -> None:
    write(folder / "dev.tsv", [*reviews(2, 100), ("film", "fine")])
    with pytest.raises(ValueError, match=r"dev.tsv:4: the label 'fine' is in no training row; train has bad, good$"):
        make().setup("fit")


def test_limits_keep_first_rows_and_all_classes(make: Make) -> None:
    module = make(limit_train=1, limit_val=2)
    module.setup("fit")
    assert (indices(module.train_dataloader()), sorted(indices(module.val_dataloader()))) == ([0], [0, 1])
    assert module.class_names == ["bad", "good"]


def test_pairs(make: Make, tmp_path: Path) -> None:
    rows = [(f"a {row}", "b c" if row % 2 else "b", row % 2) for row in range(12)]
    write(tmp_path / "train.csv", [], ())
    (tmp_path / "train.csv").write_text("first,second,y\n" + "".join(f"{a},{b},{y}\n" for a, b, y in rows))
    module = make(tmp_path / "train.csv", text_column="first", second_text_column="second", label_column="y")
    module.setup("fit")
    for batch in module.train_dataloader():
        assert (batch["token_type_ids"].sum(1) == torch.tensor([2 + label for label in batch["labels"].tolist()])).all()


def test_regression(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "all.tsv", [(f"film {row}", row / 2) for row in range(20)])
    module = make(tmp_path / "all.tsv")
    module.setup("fit")
    assert (module.num_classes, module.class_names, module.is_regression) == (1, [], True)
    labels = {int(i): float(y) for batch in module.train_dataloader() for i, y in zip(batch["indices"], batch["labels"], strict=True)}  # fmt: skip  # noqa: E501
    assert labels == {row: row / 2 for row in labels}
    assert "train: 16 rows, labels " in capsys.readouterr().out
    assert make(tmp_path / "all.tsv", task="classification", val_size=0, test_size=0).num_classes == 20


def test_columns_by_number(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "train.tsv", reviews(19, 1), header=reviews(1)[0])
    module = make(tmp_path / "train.tsv", text_column=0, label_column="1", val_size=0, test_size=0)
    module.setup("fit")
    assert sorted(indices(module.train_dataloader())) == list(range(20))
    said = "no header in train.tsv; the first line is data: column 0 'film 0 good', column 1 'bad'"
    assert capsys.readouterr().out.splitlines()[0] == said


def test_processes_share_the_rows_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, batches = [], []
    for rank in range(2):
        module = make(batch_size=1)  # seven rows: four and three
        monkeypatch.setattr(module, "shares", lambda rank=rank: (2, rank))
        module.setup("test")
        loader = list(module.test_dataloader())
        batches.append(len(loader))
        seen += indices(loader)
        spare = [batch for batch in loader if batch["indices"].tolist() == [-1]]
        assert all(batch["labels"].tolist() == [-100] for batch in spare)
    assert batches == [4, 4]
    assert sorted(seen) == [-1, *range(7)]


class Recorder(LightningModule):
    """Remembers the rows of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = bert_like()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.seen.append(batch["indices"].tolist())
        return (self.weight - batch["input_ids"].float().mean()) ** 2

    def validation_step(self, batch: dict[str, torch.Tensor]) -> None:
        assert batch["labels"].min() >= 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Writes a checkpoint behind the seventh step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 7:
            trainer.save_checkpoint(self.path)


def fit(folder: Path, save: Path | None = None, resume: Path | None = None, **fields: Any) -> list[list[int]]:
    task = Recorder()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(accelerator="cpu", max_epochs=3, callbacks=[SaveAt(save)] if save else [], **quiet)
    trainer.fit(task, datamodule=TextClassificationDataModule(str(folder), batch_size=4, **fields), ckpt_path=resume)
    return task.seen


@pytest.mark.parametrize("group", [False, True])
def test_a_run_resumes_at_its_row(folder: Path, tmp_path: Path, group: bool) -> None:
    whole = fit(folder, save=tmp_path / "last.ckpt", group_by_length=group)
    assert len(whole) == 15
    assert fit(folder, resume=tmp_path / "last.ckpt", group_by_length=group) == whole[7:]


def test_a_run_resumes_only_in_its_own_data(folder: Path, tmp_path: Path) -> None:
    whole = fit(folder, save=tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="trained on other data: max_length was 512 and is 64"):
        fit(folder, resume=tmp_path / "last.ckpt", max_length=64)
    write(folder / "dev.tsv", reviews(4, 100))  # other validation rows do not matter
    assert fit(folder, resume=tmp_path / "last.ckpt") == whole[7:]
    write(folder / "train.tsv", reviews(21))
    with pytest.raises(ValueError, match="trained on other data: sha256"):
        fit(folder, resume=tmp_path / "last.ckpt")
