"""Tables of every ending give the same rows, and broken ones are named."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from wegeft_pl.data.table_files import TableFormat, ending_of, read_table

ROWS = [{"text": 'caf\u00e9, "au lait"', "label": 1}, {"text": "line\u2028sep", "label": 0}, {"text": "c", "label": 1}]
WANTED = ["text", "label"]


def write(folder: Path, name: str) -> Path:
    """Writes ROWS by other means than the reader's."""
    file = folder / name
    ending = name.removesuffix(".gz").rsplit(".", 1)[1]
    if ending == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([{"more": 0.5, **row} for row in ROWS]), file)
        return file
    texts = {
        "jsonl": "".join(json.dumps({"more": None, **row}) + "\n" for row in ROWS),
        "json": json.dumps(ROWS),
        "csv": "label,text\r\n" + '1,"caf\u00e9, ""au lait"""\r\n0,line\u2028sep\r\n"1","c"\r\n',
        "tsv": "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS),
    }  # fmt: skip
    data = texts[ending].encode("utf-8-sig" if ending != "json" else "utf-8")
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return file


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.csv.gz", "a.tsv.gz", "a.jsonl.gz"]
)
def test_all_endings_give_the_same_rows(tmp_path: Path, name: str) -> None:
    rows, named = read_table(write(tmp_path, name), WANTED, "label", TableFormat())
    assert named
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert [str(row["label"]) for row in rows] == ["1", "0", "1"]
    assert all(str(tmp_path / name) in row.place for row in rows)


def test_places() -> None:
    assert ending_of("train-00000-of-00002.PARQUET") == ".parquet"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x", r"a.txt: expected a file that ends in .csv, .tsv, .jsonl, .json, .parquet, or one of these"),
        ("a.csv", b"text,label\n\xff,1\n", r"a.csv:2: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("a.csv.gz", b"text,label\na,1\n", r"a.csv.gz: cannot unpack this .gz file"),
        ("a.tsv.gz", gzip.compress(b"text\tlabel\n" * 900)[:-20], r"a.tsv.gz: cannot unpack this .gz file"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"\n', r"a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "a", "text": "b", "label": 1}\n', r"a.jsonl:1: the column 'text' is there 2 times"),
        ("a.jsonl", b"\n\n", r"a.jsonl: no rows; the data set is empty"),
        ("a.jsonl", b"[1, 2]\n", r"a.jsonl:1: a row must be an object like \{'text': ...\}, got list"),
        ("a.jsonl", b'{"txt": "a", "label": 1}\n', r"a.jsonl:1: no column 'text'; did you mean 'txt'\? there are: txt"),
        ("a.json", b'{"text": "a"}', r"a.json: a .json table must be an array of objects"),
        ("a.json", b'{"text": "a"}\n{"text": "b"}', r"not valid JSON \(Extra data.*belongs in a .jsonl file"),
        ("a.json", b"[]", r"a.json: no rows"),
    ],
)  # fmt: skip
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name, WANTED, "label", TableFormat())


def test_broken_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def read(name: str, columns: list[str] = WANTED) -> Any:
        return read_table(tmp_path / name, columns, "label", TableFormat())

    (tmp_path / "a.parquet").write_bytes(write(tmp_path, "whole.parquet").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a.parquet: not a whole .parquet file \(.*; make or download it again"):
        read("a.parquet")
    with pytest.raises(ValueError, match=r"whole.parquet: no column 'sentence'; there are: more, text, label"):
        read("whole.parquet", ["sentence", "label"])
    twice = pyarrow.Table.from_arrays([["a"], ["b"], ["x"]], names=["text", "text", "label"])
    parquet.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match=r"twice.parquet: the column 'text' is there 2 times"):
        read("twice.parquet")
    parquet.write_table(pyarrow.table({"text": [], "label": []}), tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match=r"empty.parquet: no rows"):
        read("empty.parquet")


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"a.parquet: .parquet files need: pip install wegeft-pl\[hub\]"):
        read_table(file, WANTED, "label", TableFormat())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, "train.csv")
    with pytest.raises(FileNotFoundError, match=r"train.tsv; did you mean 'train.csv'\?"):
        read_table(tmp_path / "train.tsv", WANTED, "label", TableFormat())


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n"])
def test_a_delimiter_is_one_character(delimiter: str) -> None:
    with pytest.raises(ValueError, match=r"data.delimiter must be one character and no quote or line break"):
        TableFormat(delimiter=delimiter)


def test_delimiter_and_quoting_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;label\n'a, b';1\n", encoding="utf-8")
    (tmp_path / "b.tsv").write_text('text\tlabel\n"a\tb"\t1\n', encoding="utf-8")
    assert read_table(tmp_path / "a.csv", WANTED, "label", TableFormat(delimiter=";"))[0][0]["text"] == "'a, b'"
    assert read_table(tmp_path / "b.tsv", WANTED, "label", TableFormat(quoted=True))[0][0]["text"] == "a\tb"
