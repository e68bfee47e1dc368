"""Which table of a folder is which split."""

from __future__ import annotations

from pathlib import Path

import pytest

from wegeft_pl.data.sources import Split
from wegeft_pl.data.text.split_files import find_split_files, split_in

NO_NAMES: dict[Split, str | None] = {"train": None, "val": None, "test": None}


def find(folder: Path, names: list[str], **named: str) -> tuple[dict[str, list[str]], list[str]]:
    for name in names:
        (folder / name).touch()
    files, unused = find_split_files(str(folder), {**NO_NAMES, **named})  # type: ignore[dict-item]
    return {split: [file.name for file in found] for split, found in files.items()}, unused


@pytest.mark.parametrize("word", ["val", "valid", "validation", "dev"])
@pytest.mark.parametrize("pattern", ["{}.tsv", "sst2-{}.csv.gz", "{}_clean.jsonl", "Task.{}.json"])
def test_words_in_names(word: str, pattern: str) -> None:
    assert split_in(pattern.format(word)) == "val"
    assert split_in(pattern.format(word.upper())) == "val"


def test_words_are_whole() -> None:
    assert [split_in(name) for name in ("contest.csv", "retrained.csv", "device.csv", "data.csv")] == [None] * 4


def test_a_folder_of_all_splits(tmp_path: Path) -> None:
    found = find(tmp_path, ["train.csv", "dev.csv", "test.csv", "README.md", "extra.csv"])
    assert found == ({"train": ["train.csv"], "val": ["dev.csv"], "test": ["test.csv"]}, ["extra.csv"])


def test_a_single_table_is_train_whatever_its_name(tmp_path: Path) -> None:
    assert find(tmp_path, ["reviews.csv"]) == ({"train": ["reviews.csv"]}, [])
    assert find_split_files(str(tmp_path / "reviews.csv"), NO_NAMES) == ({"train": [tmp_path / "reviews.csv"]}, [])


def test_the_hub_s_parts_are_put_together_in_order(tmp_path: Path) -> None:
    names = [f"train-{number:05}-of-00011.parquet" for number in range(11)] + ["validation-00000-of-00001.parquet"]
    found, _ = find(tmp_path, names)
    assert found == {"train": names[:11], "val": names[11:]}


def test_named_files_come_before_words(tmp_path: Path) -> None:
    names = ["in_domain_train.tsv", "in_domain_dev.tsv", "out_of_domain_dev.tsv"]
    with pytest.raises(ValueError, match=r"2 tables in .* say val: in_domain_dev.tsv, out_of_domain_dev.tsv; keep"):
        find(tmp_path, names)
    found, unused = find(tmp_path, names, val="in_domain_dev.tsv")
    assert (found["val"], unused) == (["in_domain_dev.tsv"], ["out_of_domain_dev.tsv"])
    found, unused = find(tmp_path, names, val="in_domain_dev.tsv", test="out_of_domain_dev.tsv")
    assert (list(found), unused) == (["train", "val", "test"], [])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.csv", "train.tsv"], r"2 tables in .* say train: train.csv, train.tsv; keep one, or name it"),
        (["train_test.csv"], r"train_test.csv: the name says both train and test; rename the file"),
        (["train-00000-of-00003.csv", "train-00002-of-00003.csv"], r"of 3 parts of train in .*, 2 are there; number 1"),
        (["train.csv", "train-00000-of-00001.csv"], r"2 tables in .* say train"),
        (["train-00000-of-00001.csv", "train-00000-of-00001.parquet"], r"of 1 parts .* some are there twice"),
    ],
)  # fmt: skip
def test_names_that_do_not_decide(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(tmp_path, names)


def test_no_training_table(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no training table in .*; it has no table"):
        find(tmp_path, [])
    with pytest.raises(
        FileNotFoundError, match=r"no training table in .* \(.*data.train_file name it\); it has dev.csv"
    ):
        find(tmp_path, ["dev.csv"], val="dev.csv")
    with pytest.raises(FileNotFoundError, match=r"data.test_file: no file tset.csv in .*; it has a.csv"):
        find(inner, ["a.csv"], test="tset.csv")
    with pytest.raises(ValueError, match=r"data.val_file names a file in a folder, but data.path is the file"):
        find_split_files(str(inner / "a.csv"), {**NO_NAMES, "val": "b.csv"})
