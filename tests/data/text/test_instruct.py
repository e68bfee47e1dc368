"""The instruction data module on files: splits, counts, batches and errors."""

import json
from itertools import pairwise

import pytest

from wegeft_pl.data import InstructDataModule
from wegeft_pl.losses import IGNORED


def rows(number, first=0):
    return [
        {"instruction": f"Say {i}{'!' * (i % 5)}", "input": "", "output": f"{i} {i}"}
        for i in range(first, first + number)
    ]


@pytest.fixture
def make(make_tokenizer, write_rows, tmp_path, monkeypatch):
    """Makes a data module on 20 training rows and 7 test rows."""
    write_rows("data/train.jsonl", rows(20))
    write_rows("data/test.jsonl", rows(7, 100))

    def make(kind="gpt2", **fields):
        module = InstructDataModule(**{"path": str(tmp_path / "data"), "batch_size": 4, "prompt": "plain", **fields})
        tokenizer = make_tokenizer(kind)
        monkeypatch.setattr(module, "resolve_tokenizer", lambda: tokenizer)
        return module

    return make


def test_batches_and_counts(make):
    module = make(val_size=5)
    module.setup()
    counts = module.describe()
    assert counts["rows"] == {"train": 15, "val": 5, "test": 7}
    labelled = 0
    for batch in module.train_dataloader():
        assert set(batch) == {"input_ids", "attention_mask", "labels"}
        labelled += int((batch["labels"] != IGNORED).sum())
    assert labelled == counts["labelled_tokens"]["train"]
    batch = next(iter(module.test_dataloader()))
    assert batch["reference"][0].split()[0] in batch["prompt"][0]
    lengths = [int(mask.sum()) for batch in module.test_dataloader() for mask in batch["prompt_mask"]]
    assert all(a >= b for a, b in pairwise(lengths))
    assert module.answer_extractors == {}
    json.dumps(counts)


def test_packing_and_grouping(make):
    module = make(packing=True, max_length=40)
    module.setup("fit")
    batches = list(module.train_dataloader())
    assert sum(batch["num_samples"] for batch in batches) == 20
    assert "position_ids" in batches[0]
    module = make(group_by_length=True)
    module.setup("fit")
    assert sum(len(batch["input_ids"]) for batch in module.train_dataloader()) == 20
    with pytest.raises(ValueError, match=r"data.packing leaves no padding for data.group_by_length"):
        make(packing=True, group_by_length=True)


def test_truncation_is_told(make, capsys):
    module = make(max_length=12)
    module.setup("fit")
    assert module.describe()["truncated"]["train"] > 0
    assert "rows cut at data.max_length=12 (their EOS is lost)" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"train: none of 20 rows has a label left at data.max_length=3; the shortest"):
        make(max_length=3).setup("fit")


def test_refusals(make, write_rows):
    with pytest.raises(ValueError, match=r"data.prompt: no chat template 'alpacca'; did you mean 'alpaca'"):
        make(prompt="alpacca")
    with pytest.raises(ValueError, match=r"data.limit_train must be at least 1, got 0"):
        make(limit_train=0)
    bad = write_rows("bad/train.jsonl", [*rows(1), {"instruction": "a"}]).parent
    with pytest.raises(ValueError, match=r"train.jsonl:2: no column 'output'"):
        make(path=str(bad)).setup("fit")
    asked = write_rows("asked/train.jsonl", [{"messages": [{"role": "user", "content": "a"}]}]).parent
    with pytest.raises(ValueError, match=r"train.jsonl:1: a conversation to train on must end with an answer"):
        make(path=str(asked)).setup("fit")


def test_questions_without_answers_can_be_tested(make, write_rows):
    write_rows("ask/train.jsonl", rows(3))
    path = write_rows("ask/test.jsonl", [{"messages": [{"role": "user", "content": "a"}]}]).parent
    module = make(path=str(path))
    module.setup("test")
    batch = next(iter(module.test_dataloader()))
    assert (batch["labels"] == IGNORED).all()
    assert batch["prompt"] == ["a\n"]
    assert batch["reference"] == [""]


def test_the_hub_is_read_by_split(make, monkeypatch):
    asked = []

    def load(repository, config, split):
        asked.append((repository, config, split))
        return rows(6 if split == "train_sft" else 2)

    monkeypatch.setattr("wegeft_pl.data.text.instruct.load_hub_split", load)
    module = make(path=None)
    module.setup("fit")
    assert module.describe()["rows"] == {"train": 6}
    assert asked == [("HuggingFaceH4/ultrafeedback_binarized", None, name) for name in ("train_sft", "test_sft")]
    assert make(path=None, hub="a/b", hub_test=None).describe()["path"] == "a/b"


def test_prompts_for_callbacks(make):
    module = make(prompt="alpaca")
    text, ids = module.format_prompt(["Hi", "Bye"], ["Hello"])
    assert text.endswith("### Response:\nHello\n\n### Instruction:\nBye\n\n### Response:\n")
    tokenizer = module.resolve_tokenizer()
    assert ids.count(tokenizer.eos_token_id) == 1
    assert module.cut_answer("Fine. ### Instruction: x") == "Fine."


def test_a_checkpoint_knows_its_place(make):
    module, again = make(), make()
    module.setup("fit")
    batches = iter(module.train_dataloader())
    next(batches)
    state = json.loads(json.dumps(module.state_dict()))
    rest = [batch["input_ids"].tolist() for batch in batches]
    again.setup("fit")
    again.load_state_dict(state)
    assert [batch["input_ids"].tolist() for batch in again.train_dataloader()] == rest
    other = make(train_on="last_turn")
    other.setup("fit")
    with pytest.raises(ValueError, match="this checkpoint was trained on other data: train_on was 'all_turns'"):
        other.load_state_dict(state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alpaca_demo/alpaca_en_demo.json", "code_alpaca/code_alpaca_2k.json"])
def test_real_data(shared, name):
    file = shared / "data/text" / name
    module = InstructDataModule(
        str(file), tokenizer=str(shared / "weights/stories260K"), prompt="vicuna", test_size=20, max_length=4096
    )
    module.setup()
    found = json.loads(file.read_text(encoding="utf-8"))
    counts = module.describe()
    assert counts["rows"]["train"] + counts["rows"]["test"] == len(found)
    references = {n: r for b in module.test_dataloader() for n, r in zip(b["id"], b["reference"], strict=True)}
    assert references == {number: found[number]["output"] for number in references}
