"""Rows read where they stand are those of the whole file, a broken one is named, and memory stays small."""

import hashlib
import json
import subprocess
import sys

import pytest

from wegeft_pl.data import GSM8KDataModule
from wegeft_pl.data.rows import read_rows
from wegeft_pl.data.text.splits import hold_out
from wegeft_pl.data.text.stream import StreamedRows

COLUMNS = ("question", "answer")


def line(number, text="What?"):
    return json.dumps({"question": f"{text} {number}", "answer": f"#### {number}", "more": 1}, ensure_ascii=False)


@pytest.fixture
def file(tmp_path):
    """A byte-order mark, blank lines, a separator inside of a string, and no newline at the end."""
    file = tmp_path / "train.jsonl"
    lines = [line(0), "", line(1, "caf\u00e9\u2028"), "   ", line(2), line(3)]
    file.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    return file


def test_rows_are_those_of_the_whole_file_in_any_order(file):
    rows, whole = StreamedRows(file, COLUMNS), read_rows(file, COLUMNS)
    assert [row for _, row in rows] == whole
    assert [row.place for _, row in rows] == [row.place for row in whole]
    assert [rows[number][1] for number in (3, 0, 2)] == [whole[3], whole[0], whole[2]]
    assert len(rows) == 4
    assert rows.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_parts_keep_their_numbers(file):
    rows = StreamedRows(file, COLUMNS)
    assert [number for number, _ in rows.pick([3, 1])] == [3, 1]
    assert [number for number, _ in rows.pick([3, 1])[1:]] == [1]
    assert [number for number, _ in rows[1:][1:]] == [2, 3]
    assert rows[:None] is not rows
    assert not rows.pick([])


def test_the_same_rows_are_held_out(file):
    streamed = hold_out({"train": StreamedRows(file, COLUMNS)}, 1, 1, 7, "it")
    held = hold_out({"train": list(enumerate(read_rows(file, COLUMNS)))}, 1, 1, 7, "it")
    for split in ("train", "val", "test"):
        assert list(streamed[split]) == list(held[split])
    assert isinstance(streamed["train"], StreamedRows)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"{", r"train.jsonl:2: not valid JSON"),
        (b'{"question": "a"}', r"train.jsonl:2: no column 'answer'"),
        (b'{"question": 1, "answer": "a"}', r"train.jsonl:2: column 'question' must hold a string, got a number"),
        (b'{"question": "\xff"}', r"train.jsonl:2: byte 0xff is not UTF-8"),
    ],
)
def test_a_broken_row_is_named(tmp_path, broken, message):
    file = tmp_path / "train.jsonl"
    file.write_bytes(line(0).encode() + b"\n" + broken + b"\n" + line(2).encode())
    rows = StreamedRows(file, COLUMNS)
    assert rows[2][1]["answer"] == "#### 2"
    with pytest.raises(ValueError, match=message):
        rows[1]
    with pytest.raises(ValueError, match=message):
        read_rows(file, COLUMNS)


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*train.jsonl"):
        StreamedRows(tmp_path / "train.jsonl", COLUMNS)
    with pytest.raises(ValueError, match=r"train.json: data.streaming reads .jsonl files, one object a line"):
        StreamedRows(tmp_path / "train.json", COLUMNS)
    (tmp_path / "train.jsonl").write_text("\n \n")
    with pytest.raises(ValueError, match=r"no rows; the data set is empty"):
        StreamedRows(tmp_path / "train.jsonl", COLUMNS)


@pytest.mark.parametrize(
    "fields", [{}, {"packing": True}, {"group_by_length": True}, {"val_size": 5, "limit_train": 9}]
)
def test_a_streamed_module_has_the_same_batches(gsm8k_folder, make_tokenizer, tmp_path, fields):
    def batches(**more):
        module = GSM8KDataModule(str(gsm8k_folder), batch_size=3, max_length=60, **fields, **more)
        tokenizer = make_tokenizer("llama")
        module.resolve_tokenizer = lambda: tokenizer
        module.setup("fit")
        module.setup("test")
        found = [*module.train_dataloader(), *module.val_dataloader(), *module.test_dataloader()]
        return [{k: v.tolist() if hasattr(v, "tolist") else v for k, v in batch.items()} for batch in found], module

    held, plain = batches(cache_dir=None)
    for _ in range(2):  # tokens made, and tokens found
        streamed, module = batches(streaming=True, cache_dir=str(tmp_path / "cache"))
        assert streamed == held
        assert module.describe() == plain.describe()


def test_streaming_needs_files(gsm8k_folder):
    with pytest.raises(ValueError, match=r"data.streaming reads local .jsonl files, and data.path is null"):
        GSM8KDataModule(streaming=True)
    with pytest.raises(ValueError, match=r"data.streaming keeps tokens in files, but data.cache_dir is null"):
        GSM8KDataModule(str(gsm8k_folder), streaming=True, cache_dir=None)


SCRIPT = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from wegeft_pl.data import GSM8KDataModule

def own_memory():
    status = open("/proc/self/status").read().split()
    return int(status[status.index("RssAnon:") + 1]) / 1024

tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "####": 2}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
path, cache, streaming = sys.argv[1:4]
module = GSM8KDataModule(path, batch_size=8, max_length=512, streaming=streaming == "yes", cache_dir=cache)
module.resolve_tokenizer = lambda: tokenizer
before = own_memory()
module.setup("fit")
tokens, peak = 0, own_memory()
for number, batch in enumerate(module.train_dataloader()):
    tokens += int(batch["attention_mask"].sum())
    if not number % 500:
        peak = max(peak, own_memory())
print(tokens, peak - before)
"""


@pytest.mark.slow
def test_a_file_larger_than_the_memory_it_takes(tmp_path):
    """60 MB of rows of 10 kB; the process itself grows by a small part of that, and file pages can be given back."""
    words = " ".join("x" * 99 for _ in range(100))  # few tokens, which are not what this is about
    with (tmp_path / "train.jsonl").open("w") as file:
        for number in range(6_000):
            file.write(json.dumps({"question": f"{number} {words}", "answer": f"#### {number % 1000}"}) + "\n")
    assert (tmp_path / "train.jsonl").stat().st_size > 60e6
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "train.jsonl"), str(tmp_path / "cache"), "yes"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert result.returncode == 0, result.stderr[-2000:]
    tokens, grown_mb = map(float, result.stdout.split())
    assert tokens == 6_000 * (100 + 1 + 2 + 3)  # a number, "Question:" and "Answer:", "####", its number and EOS
    assert grown_mb < 30
