"""Tables of images: separated, JSON lines and parquet."""

from __future__ import annotations

import json

import pytest

from wegeft_pl.data import ImageCSVDataModule


@pytest.fixture
def make(tmp_path, fields, save):
    for number in range(4):
        save(f"images/{number}.png", number)
    return lambda name="", **changes: ImageCSVDataModule(str(tmp_path / name), **{**fields, **changes})


def test_csv_with_numbers(make, tmp_path):
    (tmp_path / "train.csv").write_text("image,label\n" + "".join(f"images/{n}.png,{10 - n}\n" for n in range(4)))
    (tmp_path / "val.tsv").write_text("image\tlabel\nimages/0.png\t9\n")
    module = make()
    module.setup("fit")
    assert module.class_names == ["7", "8", "9", "10"]
    assert module._splits["train"].labels == [3, 2, 1, 0]
    assert module._splits["val"].labels == [2]


def test_one_table_is_train(make, tmp_path):
    rows = [{"file": f"{n}.png", "kind": "ab"[n % 2], "more": n} for n in range(4)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    module = make(
        "all.jsonl", image_column="file", label_column="kind", image_root=str(tmp_path / "images"), test_size=2
    )
    module.setup()
    assert module.describe()["rows"] == {"train": 2, "test": 2}
    assert module.class_names == ["a", "b"]


def test_parquet(make, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"image": [str(tmp_path / f"images/{n}.png") for n in range(4)], "label": [0, 1, 1, 0]})
    (tmp_path / "tables").mkdir()
    parquet.write_table(table, tmp_path / "tables" / "train.parquet")
    module = make("tables")
    module.setup("fit")
    assert module._splits["train"].labels == [0, 1, 1, 0]


def test_faults(make, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no training table, such as train\.csv \(\.csv.*it has images"):
        make().setup("fit")
    (tmp_path / "train.csv").write_text("image,class\nimages/0.png,a\n")
    with pytest.raises(ValueError, match=r"train\.csv.*no column 'label'"):
        make(has_header=True).setup("fit")
    (tmp_path / "train.jsonl").write_text('{"image": 3, "label": "a"}\n')
    with pytest.raises(ValueError, match=r"has both train\.csv and train\.jsonl; keep one"):
        make().setup("fit")
    (tmp_path / "train.csv").unlink()
    with pytest.raises(ValueError, match=r"train\.jsonl:1: column 'image' must hold an image's path, got 3; see"):
        make().setup("fit")
    (tmp_path / "train.jsonl").write_text('{"image": "images/0.png", "label": "a"}\n{"image": "x.png", "label": "b"}\n')
    with pytest.raises(FileNotFoundError, match=r"train\.jsonl:2: no file or folder .*x\.png"):
        make().setup("fit")
