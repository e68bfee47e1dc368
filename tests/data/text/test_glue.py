"""GLUE tasks from files in their original layouts, and from a stand-in of the hub."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any, get_args

import pytest
from word_tokenizer import bert_like

from wegeft_pl.data import GLUEDataModule
from wegeft_pl.data.text.glue import TaskName
from wegeft_pl.data.text.glue_tasks import TASKS
from wegeft_pl.metrics.glue import GLUE_SCORES

ENTAILMENT = ["0\ta\tb\tnot_entailment", "1\tb\tc\tentailment", "2\tc\td\tnot_entailment"]
#: For each task its original columns, three rows with the labels 1, 0, 1, and the columns of its test file.
ORIGINAL: dict[str, tuple[str, list[str], str]] = {
    "sst2": ("sentence\tlabel", ["good\t1", 'a " film\t0', "fine\t1"], "index\tsentence"),
    "mrpc": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        ["1\t7\t8\ta\tb", '0\t9\t10\t"a\tc', "1\t2\t3\td\te"],
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        ["1\t2\t3\ta\tb\t1", "4\t5\t6\ta\t\t0", "7\t8\t9\tc\td\t1"],
        "id\tquestion1\tquestion2",
    ),
    "qnli": ("index\tquestion\tsentence\tlabel", ENTAILMENT, "index\tquestion\tsentence"),
    "rte": ("index\tsentence1\tsentence2\tlabel", ENTAILMENT, "index\tsentence1\tsentence2"),
    "wnli": (
        "index\tsentence1\tsentence2\tlabel",
        ["0\ta\tb\t1", "1\tb\tc\t0", "2\tc\td\t1"],
        "index\tsentence1\tsentence2",
    ),
}
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"


def write(folder: Path, files: dict[str, list[str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def module_of(task: Any, path: Path | None, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> GLUEDataModule:
    tokenizer = bert_like()
    module = GLUEDataModule(task, None if path is None else str(path), **fields)
    monkeypatch.setattr(module, "resolve_tokenizer", lambda: tokenizer)
    return module


def labels(loader: Any) -> list[float]:
    pairs = [(int(i), y) for batch in loader for i, y in zip(batch["indices"], batch["labels"].tolist(), strict=True)]
    return [label for _, label in sorted(pairs)]


def test_every_task_is_known_everywhere() -> None:
    assert set(get_args(TaskName)) == set(TASKS) == set(GLUE_SCORES)


@pytest.mark.parametrize("task", ORIGINAL)
@pytest.mark.parametrize("inside", [True, False])
def test_original_files(task: str, inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    header, rows, test_header = ORIGINAL[task]
    test_row = "\t".join("a" * len(test_header.split("\t")))
    folder = tmp_path / TASKS[task].folders[0] if inside else tmp_path
    write(folder, {"train.tsv": [header, *rows], "dev.tsv": [header, *rows[:2]], "test.tsv": [test_header, test_row]})
    module = module_of(task, tmp_path, monkeypatch)
    module.setup()
    assert labels(module.train_dataloader()) == [1, 0, 1]
    assert labels(module.val_dataloader()) == labels(module.test_dataloader()) == [1, 0]
    assert module.num_classes == 2
    assert f"{task}: GLUE's test labels are not public; test scores the validation rows" in capsys.readouterr().out


def test_numbers_to_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{row}\tmain\tf\t2012\t{row}\tx\ty\ta b\tc\t{row / 4:.3f}" for row in range(5)]
    write(tmp_path / "STS-B", {"train.tsv": [STSB + "\tscore", *rows], "dev.tsv": [STSB + "\tscore", rows[1]]})
    module = module_of("stsb", tmp_path, monkeypatch)
    module.setup("fit")
    assert labels(module.train_dataloader()) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert (module.num_classes, module.class_names, module.headline) == (1, [], "pearson")


def test_cola_without_a_header_and_as_the_corpus_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rows = ["gj04\t1\t\tgood film", "gj04\t0\t*\tfilm a a", "gj04\t1\t\tfine"]
    write(tmp_path / "CoLA", {"train.tsv": rows, "dev.tsv": rows[:2], "test.tsv": ["index\tsentence", "0\ta"]})
    module = module_of("cola", tmp_path, monkeypatch)
    module.setup("fit")
    assert labels(module.train_dataloader()) == [1, 0, 1]
    assert module.class_names == ["unacceptable", "acceptable"]
    corpus = tmp_path / "corpus/acceptability_corpus/cola_public/raw"
    names = ("in_domain_train.tsv", "in_domain_dev.tsv", "out_of_domain_dev.tsv")
    write(corpus, dict(zip(names, (rows, rows[:2], rows[1:2]), strict=True)))
    module = module_of("cola", tmp_path / "corpus", monkeypatch)
    module.setup("validate")
    assert labels(module.val_dataloader()) == [1, 0, 0]
    assert "val: in_domain_dev.tsv, out_of_domain_dev.tsv together" in capsys.readouterr().out


@pytest.mark.parametrize(("task", "label"), [("mnli", [1]), ("mnli_mismatched", [2])])
def test_mnli_has_two_validation_files(
    task: str, label: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "index\tsentence1\tsentence2\tlabel1\tgold_label"
    train = [header, *(f"{n}\ta\tb\tx\t{name}" for n, name in enumerate(["neutral", "entailment", "contradiction"]))]
    dev = {"dev_matched.tsv": [header, train[1]], "dev_mismatched.tsv": [header, train[3]]}
    write(tmp_path / "MNLI", {"train.tsv": train, **dev})
    module = module_of(task, tmp_path, monkeypatch)
    module.setup("fit")
    assert labels(module.train_dataloader()) == [1, 0, 2]
    assert labels(module.val_dataloader()) == label


def test_broken_lines_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    header, rows, _ = ORIGINAL["qqp"]
    write(
        tmp_path, {"train.tsv": [header, rows[0], "8\t9\tcut", "", *rows[1:]], "dev.tsv": [header, "1\t2\t3\ta\tb\t2"]}
    )
    module = module_of("qqp", tmp_path, monkeypatch)
    with pytest.raises(
        ValueError, match=r"dev.tsv:2: the label '2' is none of not_duplicate, duplicate, nor their number"
    ):
        module.setup("fit")
    write(tmp_path, {"dev.tsv": [header, *rows]})
    module = module_of("qqp", tmp_path, monkeypatch)
    module.setup("fit")
    assert labels(module.train_dataloader()) == [1, 0, 1]
    assert "train.tsv: 1 broken lines left out" in capsys.readouterr().out


def test_test_files_with_labels_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"train.tsv": ["good\t1", "bad\t0"], "dev.tsv": ["fine\t1"], "test.tsv": ["bad\t0", "fine\t1"]})
    module = module_of("sst2", tmp_path, monkeypatch)
    module.setup("test")
    assert labels(module.test_dataloader()) == [0, 1]


def test_the_hub_s_files_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"sentence": "good", "label": 1, "idx": 0}, {"sentence": "bad", "label": 0, "idx": 1}]
    write(tmp_path, {"train.jsonl": [json.dumps(row) for row in rows], "validation.jsonl": [json.dumps(rows[0])]})
    write(tmp_path, {"test.jsonl": [json.dumps({**rows[0], "label": -1})]})
    module = module_of("sst2", tmp_path, monkeypatch)
    module.setup()
    assert (labels(module.train_dataloader()), labels(module.test_dataloader())) == ([1, 0], [1])


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(repository: str, config: str, split: str) -> list[dict[str, Any]]:
        calls.append((repository, config, split))
        unknown = [{"premise": "a", "hypothesis": "b", "label": -1, "idx": 0}]
        return unknown if "test" in split else [{**unknown[0], "label": label} for label in (2, 0)]

    hub = types.ModuleType("datasets")
    monkeypatch.setattr(hub, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    module = module_of("mnli_mismatched", None, monkeypatch)
    module.prepare_data()
    assert [call[2] for call in calls] == ["train", "validation_mismatched", "test_mismatched"]
    assert {call[:2] for call in calls} == {("nyu-mll/glue", "mnli")}
    module.setup("fit")
    assert labels(module.train_dataloader()) == labels(module.val_dataloader()) == [2, 0]
    assert module.class_names == ["entailment", "neutral", "contradiction"]
    description = json.loads(json.dumps(module.describe()))
    assert (description["path"], description["glue_task"]) == ("nyu-mll/glue", "mnli_mismatched")


def test_what_is_no_task_or_not_its_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.task: no GLUE task 'sst-2'; there are cola, mnli, .*"):
        GLUEDataModule("sst-2")  # type: ignore[arg-type]
    write(tmp_path, {"train.txt": ["x"]})
    with pytest.raises(
        FileNotFoundError, match=r"did you mean 'train.txt'\?; for rte give the folder with .*folder RTE$"
    ):
        _ = GLUEDataModule("rte", str(tmp_path)).tables
    write(tmp_path, {"train.tsv": ["good film\tyes"]})
    with pytest.raises(
        ValueError, match=r"train.tsv:1: expected the columns sentence and label, got 'good film', 'yes'"
    ):
        _ = GLUEDataModule("sst2", str(tmp_path)).tables
    write(tmp_path, {"dev.tsv": ["good film\t1"], "dev.csv": ["sentence,label", "a,1"]})
    with pytest.raises(ValueError, match=r"2 tables in .* say val: dev.csv, dev.tsv"):
        _ = GLUEDataModule("sst2", str(tmp_path)).tables
    with pytest.raises(ValueError, match=r"train.tsv is a file; give the folder"):
        _ = GLUEDataModule("sst2", str(tmp_path / "train.tsv")).tables
