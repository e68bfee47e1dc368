"""Where rows come from: files, folders, what is shipped, the hub."""

import sys
import types

import pytest

from wegeft_pl.data.text.sources import find_files, find_path, load_hub_split, read_hub_rows

ROW = {"question": "a?", "answer": "#### 1"}


def test_a_file_is_the_training_split(write_rows):
    file = write_rows("mine.jsonl", [ROW])
    assert find_files(str(file)) == {"train": file}


def test_a_folder_has_a_file_for_each_split(write_rows, tmp_path):
    train, val, test = (write_rows(name, [ROW]) for name in ("train.jsonl", "val.json", "test.jsonl"))
    assert find_files(str(tmp_path)) == {"train": train, "val": val, "test": test}


def test_shipped_data_has_a_name():
    assert find_path("bundled:word_problems").is_dir()
    with pytest.raises(ValueError, match="bundled:word_problems"):
        find_path("bundled:word_problem")


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_path("~") == tmp_path


def test_wrong_paths_are_named(write_rows, tmp_path):
    write_rows("gsm8k/test.jsonl", [ROW])
    with pytest.raises(FileNotFoundError, match=r"data.path: no file or folder .*gsm8; did you mean 'gsm8k'\?"):
        find_files(str(tmp_path / "gsm8"))
    with pytest.raises(FileNotFoundError, match=r"has no train.jsonl or train.json; it has test.jsonl"):
        find_files(str(tmp_path / "gsm8k"))
    write_rows("both/train.jsonl", [ROW])
    write_rows("both/train.json", [ROW])
    with pytest.raises(ValueError, match=r"both has both train.jsonl and train.json; keep one"):
        find_files(str(tmp_path / "both"))


def fake_hub(monkeypatch, load_dataset):
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_rows_are_checked_like_a_file_s(monkeypatch):
    calls = []

    def load_dataset(repository, config, split):
        calls.append((repository, config, split))
        return [{**ROW, "more": 1}, {"question": "b?", "answer": None}][: len(calls)]

    fake_hub(monkeypatch, load_dataset)
    assert read_hub_rows("openai/gsm8k", "main", "train", tuple(ROW)) == [ROW]
    with pytest.raises(ValueError, match="openai/gsm8k test: row 2: column 'answer' must hold a string, got null"):
        read_hub_rows("openai/gsm8k", "main", "test", tuple(ROW))
    assert calls == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    def load_dataset(repository, config, split):
        raise ConnectionError("Couldn't reach it\nand much more")

    fake_hub(monkeypatch, load_dataset)
    with pytest.raises(ValueError, match=r"cannot load a/b from the hub \(Couldn't reach it\); give data.path a local"):
        read_hub_rows("a/b", "main", "train", tuple(ROW))


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install wegeft-pl\[hub\]"):
        read_hub_rows("a/b", "main", "train", tuple(ROW))


def test_a_branch_is_asked_for_where_one_is_named(monkeypatch):
    def load_dataset(repository, config, split, **more):
        return [{"asked": (repository, config, split, more)}]

    fake_hub(monkeypatch, load_dataset)
    assert list(load_hub_split("a/b", None, "train", "refs/convert/parquet")) == [
        {"asked": ("a/b", None, "train", {"revision": "refs/convert/parquet"})}
    ]
    assert list(load_hub_split("a/b", "c", "test")) == [{"asked": ("a/b", "c", "test", {})}]
