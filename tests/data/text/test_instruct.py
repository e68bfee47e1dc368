"""The instruction data module on files: splits, counts, batches and errors."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from wegeft_pl.data import InstructDataModule
from wegeft_pl.data.text import encode_split
from wegeft_pl.data.text.chat_templates import CHAT_TEMPLATES
from wegeft_pl.data.text.token_store import TokenStore
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


def test_packing_and_grouping_are_described_where_they_are_on(make):
    assert not {"packing", "group_by_length"} & make().describe().keys()
    assert make(packing=True).describe()["packing"] is True
    assert make(group_by_length=True).describe()["group_by_length"] is True


#: A tokenizer's own template.
CHAT = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture
def talks(write_rows, monkeypatch):
    """A folder of conversations of one to three rounds, each split of which is enough to be kept."""
    monkeypatch.setattr(encode_split, "CACHE_FROM", 5)

    def talk(number):
        for turn in range(number % 3 + 1):
            yield {"role": "user", "content": f"{number} + {turn}?"}
            yield {"role": "assistant", "content": "7" * (number % 4 + 1)}

    def rows(number):
        return [{"messages": list(talk(n))} for n in range(number)]

    write_rows("talks/train.jsonl", rows(23))
    return write_rows("talks/test.jsonl", rows(6)).parent


def everything(module):
    """All batches in plain lists, and what the module says of itself."""
    module.setup()
    found = [*module.train_dataloader(), *module.val_dataloader(), *module.test_dataloader()]
    lists = [{name: getattr(value, "tolist", lambda value=value: value)() for name, value in b.items()} for b in found]
    return lists, module.describe()


def entries(cache):
    return len([path for path in cache.iterdir() if path.is_dir()])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": "chat"},
        {"train_on": "last_turn", "prompt": "llama2"},
        {"packing": True},
        {"group_by_length": True},
        {"train_on_prompt": True, "limit_train": 9},
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_tokens_that_were_kept_are_those_made_anew(make, talks, tmp_path, monkeypatch, fields, streaming):
    def module(**more):
        made = make(path=str(talks), val_size=5, max_length=30, **fields, **more)
        made.resolve_tokenizer().chat_template = CHAT
        return made

    plain = everything(module(cache_dir=None))
    assert plain[1]["truncated"]["train"] > 0
    kept = {"cache_dir": str(tmp_path / "cache"), "streaming": streaming}
    assert everything(module(**kept)) == plain
    assert entries(tmp_path / "cache") == 3

    def fail(*_):
        raise AssertionError("tokenised again")

    monkeypatch.setattr(encode_split, "encode_all", fail)
    assert everything(module(**kept)) == plain
    with pytest.raises(AssertionError, match="tokenised again"):
        everything(module(cache_dir=None))


@pytest.mark.parametrize("kept", [False, True])
def test_rows_stay_in_order_and_those_without_a_label_are_left_out(make, write_rows, tmp_path, kept):
    longest = "long " * 9
    asked = ["a", longest, "bb", "c", longest, "ddd"]
    path = write_rows("order/train.jsonl", [{"prompt": text, "completion": text * 2} for text in asked])
    module = make(path=str(path), max_length=20, streaming=kept, cache_dir=str(tmp_path / "cache"))
    module.setup("fit")
    tokenizer, dataset = module.resolve_tokenizer(), module._splits["train"]
    expected = [f"{text}\n{text * 2}<|endoftext|>" for text in asked if text != longest]
    assert [tokenizer.decode(dataset[number].input_ids) for number in range(len(dataset))] == expected
    assert dataset.lengths == [len(text.removesuffix("<|endoftext|>")) + 1 for text in expected]
    assert module.describe()["dropped"]["train"] == 2


def test_prompts_end_where_the_answer_begins(make):
    module = make(val_size=5)
    module.setup()
    found = {n: p for b in module.test_dataloader() for n, p in zip(b["id"], b["prompt"], strict=True)}
    assert found == {n: f"Say {100 + n}{'!' * (n % 5)}\n" for n in range(7)}


def test_what_changes_tokens_makes_another_entry(make, talks, tmp_path, write_rows, monkeypatch):
    def tokens(kind="gpt2", **fields):
        module = make(kind, path=str(talks), cache_dir=str(tmp_path / "cache"), **fields)
        module.setup("fit")
        return entries(tmp_path / "cache")

    assert [tokens(), tokens(), tokens(seed=1, packing=True), tokens(layout="messages")] == [1, 1, 1, 1]
    assert [tokens(prompt="vicuna"), tokens(train_on="last_turn")] == [2, 3]
    assert [tokens(max_length=50), tokens(train_on_prompt=True), tokens("llama")] == [4, 5, 6]
    monkeypatch.setitem(CHAT_TEMPLATES, "plain", replace(CHAT_TEMPLATES["plain"], between=""))
    assert tokens() == 7
    write_rows("talks/train.jsonl", rows(9))
    assert [tokens(), tokens()] == [8, 8]


def test_a_broken_cache_is_made_again(make, talks, tmp_path, capsys):
    fields = {"path": str(talks), "val_size": 5, "max_length": 60, "cache_dir": str(tmp_path / "cache")}
    plain = everything(make(**fields))
    for file in (tmp_path / "cache").glob("*/labelled.bin"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    capsys.readouterr()
    assert everything(make(**fields)) == plain
    assert capsys.readouterr().out.count("is broken (labelled.bin has another checksum)") == 3
    assert everything(make(**fields)) == plain
    assert "broken" not in capsys.readouterr().out


def test_few_rows_are_not_kept_unless_they_are_streamed(make, tmp_path):
    cache = tmp_path / "cache"
    everything(make(cache_dir=str(cache), val_size=2))
    assert not cache.exists()
    everything(make(cache_dir=str(cache), val_size=2, streaming=True))
    assert all(len(TokenStore(path)) for path in cache.iterdir() if path.is_dir())
    assert entries(cache) == 3


@pytest.mark.slow
def test_other_processes_change_nothing(make, talks):
    def batches(**fields):
        module = make(path=str(talks), max_length=30, prompt="chat", cache_dir=None, **fields)
        module.resolve_tokenizer().chat_template = CHAT
        module.setup("fit")
        return [batch["labels"].tolist() for batch in module.train_dataloader()], module.describe()

    assert batches(num_proc=2) == batches()


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
    with pytest.raises(ValueError, match=r"data.num_proc must be at least 1, got 0"):
        make(num_proc=0)
    with pytest.raises(ValueError, match=r"data.streaming reads local .jsonl files, and data.path is null"):
        make(path=None, streaming=True)
    with pytest.raises(ValueError, match=r"data.streaming keeps tokens in files, but data.cache_dir is null"):
        make(streaming=True, cache_dir=None)
    bad = write_rows("bad/train.jsonl", [*rows(1), {"instruction": "a"}]).parent
    asked = write_rows("asked/train.jsonl", [{"messages": [{"role": "user", "content": "a"}]}]).parent
    for fields in ({}, {"streaming": True, "cache_dir": str(bad.parent / "cache")}):
        with pytest.raises(ValueError, match=r"train.jsonl:2: no column 'output'"):
            make(path=str(bad), **fields).setup("fit")
        with pytest.raises(ValueError, match=r"train.jsonl:1: a conversation to train on must end with an answer"):
            make(path=str(asked), **fields).setup("fit")


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
    fields = {"prompt": "vicuna", "test_size": 20, "max_length": 4096, "cache_dir": None}
    module = InstructDataModule(str(file), tokenizer=str(shared / "weights/stories260K"), **fields)
    module.setup()
    found = json.loads(file.read_text(encoding="utf-8"))
    counts = module.describe()
    assert counts["rows"]["train"] + counts["rows"]["test"] == len(found)
    references = {n: r for b in module.test_dataloader() for n, r in zip(b["id"], b["reference"], strict=True)}
    assert references == {number: found[number]["output"] for number in references}
