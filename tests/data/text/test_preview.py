"""A preview says what is in the data: parts that are learned, lengths, padding as the loader makes it."""

import pytest

from wegeft_pl.data import GSM8KDataModule, PlainTextDataModule
from wegeft_pl.data.text.preview import length_summary, padding_shares, show
from wegeft_pl.data.text.tokenize import EncodedExample, encode_example


def make(kind, folder, **fields):
    module = GSM8KDataModule(str(folder), batch_size=3, **fields)
    module.resolve_tokenizer = lambda: kind
    module.setup()
    return module


def test_parts_are_the_text_with_its_special_tokens(tokenizer):
    example = encode_example(tokenizer, "Question: 1+1?\nAnswer:\n", "two it is", 200)
    shown = show(example, tokenizer)
    assert [part["learned"] for part in shown["parts"]] == [False, True]
    whole = "".join(part["text"] for part in shown["parts"])
    assert whole == tokenizer.decode(example.input_ids, skip_special_tokens=False)
    assert shown["parts"][1]["text"].strip() == f"two it is{tokenizer.eos_token}"
    assert (shown["tokens"], shown["truncated"]) == (len(example.input_ids), False)


def test_several_turns_have_several_parts(make_tokenizer):
    tokenizer = make_tokenizer("no_bos")
    ids = tokenizer("abcdef")["input_ids"]
    labels = [-100, ids[1], ids[2], -100, -100, ids[5]]
    shown = show(EncodedExample(ids, labels, ids[:5], truncated=True), tokenizer)
    assert [(part["text"], part["learned"]) for part in shown["parts"]] == [
        ("a", False), ("bc", True), ("de", False), ("f", True)
    ]  # fmt: skip
    assert shown["truncated"]


def test_lengths():
    summary = length_summary([*range(1, 101), 1200])
    assert summary["histogram"][0] == [1, 100, 100]
    assert summary["histogram"][-1] == [1101, 1200, 1]
    assert len(summary["histogram"]) == 12
    assert (summary["least"], summary["median"], summary["greatest"]) == (1, 51, 1200)
    assert length_summary([3])["histogram"][-1] == [3, 3, 1]


@pytest.mark.parametrize(
    ("name", "fields"),
    [("shuffled", {}), ("group_by_length", {"group_by_length": True}), ("packing", {"packing": True})],
)
def test_the_share_of_padding_is_that_of_the_loader(gsm8k_folder, make_tokenizer, name, fields):
    module = make(make_tokenizer("llama"), gsm8k_folder, max_length=150, **fields)
    shares = module.preview(0)["text"]["padding"]
    batches = list(module.train_dataloader())
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert shares[name] == pytest.approx(1 - real / sum(batch["attention_mask"].numel() for batch in batches), abs=1e-4)
    assert set(shares) == {"shuffled", "group_by_length", "packing"}
    assert "packing" not in padding_shares([3, 4], 2, None, 0)


def test_a_module_s_preview(gsm8k_folder, make_tokenizer):
    module = make(make_tokenizer("pad_is_eos"), gsm8k_folder, max_length=45, val_size=2)
    facts = module.preview(3)
    text = facts["text"]
    cut = module.describe()["truncated"]["train"]
    assert facts["data"] == module.describe()
    assert facts["batch"]["input_ids"] == "int64 (3, 45)"
    assert (text["split"], text["looked_at"], len(text["samples"])) == ("train", 18, 3)
    assert 0 < cut == text["looked_at"] - text["eos_learned"]
    assert (text["eos"], text["bos"], text["bos_first"], text["bos_doubled"]) == ("</s>", "<s>", 18, 0)
    assert text["tokens"] == module.describe()["tokens"]["train"]
    assert text["learned_tokens"] == module.describe()["labelled_tokens"]["train"]
    assert sum(count for _, _, count in text["lengths"]["histogram"]) == 18


def test_a_doubled_bos_and_a_missing_eos_are_counted(gsm8k_folder, make_tokenizer, monkeypatch):
    module = make(make_tokenizer("llama"), gsm8k_folder)
    doubled = EncodedExample([1, 1, 5, 6], [-100, -100, 5, 6], [1, 1], truncated=False)
    module._splits["train"].examples = [doubled, doubled]
    text = module.preview(1)["text"]
    assert (text["bos_doubled"], text["eos_learned"]) == (2, 0)


def test_windows_of_plain_text(tmp_path, make_tokenizer):
    (tmp_path / "input.txt").write_text("to be or not to be, " * 40)
    module = PlainTextDataModule(str(tmp_path), window=16, batch_size=2)
    tokenizer = make_tokenizer("no_bos")
    module.resolve_tokenizer = lambda: tokenizer
    module.setup()
    text = module.preview(2)["text"]
    assert text["lengths"]["greatest"] == 16
    assert "packing" not in text["padding"]
    assert text["samples"][0]["parts"][0]["learned"]
