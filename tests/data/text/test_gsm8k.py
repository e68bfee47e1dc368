"""GSM8K's data module on files: splits, counts, batches, scores and errors."""

import json

import pytest
import torch

from wegeft_pl.data import GSM8KDataModule
from wegeft_pl.losses import IGNORED


@pytest.fixture
def make(make_tokenizer, gsm8k_folder, monkeypatch):
    """Makes a data module on the small folder with a small tokenizer."""

    def make(kind="llama", **kwargs):
        module = GSM8KDataModule(**{"path": str(gsm8k_folder), "batch_size": 4, **kwargs})
        tokenizer = make_tokenizer(kind)
        monkeypatch.setattr(module, "resolve_tokenizer", lambda: tokenizer)
        return module

    return make


def ids(loader):
    return [number for batch in loader for number in batch["id"]]


def test_train_batches_hold_the_loss_and_nothing_else(make):
    module = make()
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert len(module.val_dataloader()) == 0
    assert list(module.val_dataloader()) == []
    lengths = module.describe()
    assert lengths["rows"] == {"train": 20}
    labelled = sum(int((batch["labels"] != IGNORED).sum()) for batch in module.train_dataloader())
    assert labelled == lengths["labelled_tokens"]["train"]
    tokens = sum(int(batch["attention_mask"].sum()) for batch in module.train_dataloader())
    assert tokens == lengths["tokens"]["train"]


def test_test_batches_are_sorted_by_prompt_and_carry_ids_and_references(make):
    module = make()
    module.setup("test")
    batches = list(module.test_dataloader())
    lengths = [int(size) for batch in batches for size in batch["prompt_mask"].sum(1)]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(ids(batches)) == list(range(7))
    for batch in batches:
        assert len(batch["id"]) == len(batch["prompt"]) == len(batch["reference"]) == len(batch["prompt_ids"])
        assert (batch["prompt_mask"][:, -1] == 1).all()  # generation continues at the right end
        for number, prompt, reference in zip(batch["id"], batch["prompt"], batch["reference"], strict=True):
            assert prompt.startswith(f"Question: What is {100 + number} + ")
            assert reference == str(2 * (100 + number))
    assert ids(module.predict_dataloader()) == ids(batches)


@pytest.mark.parametrize("kind", ["llama", "pad_is_eos", "gpt2", "no_bos", "appends_eos", "merges_the_boundary"])
def test_training_prompts_are_generation_prompts(make, kind):
    module = make(kind)
    module.setup("test")
    eos = module.resolve_tokenizer().eos_token_id
    names = ("input_ids", "attention_mask", "prompt_ids", "prompt_mask", "labels")
    for batch in module.test_dataloader():
        for row, mask, prompt, prompt_mask, labels in zip(*(batch[name] for name in names), strict=True):
            prompt = prompt[prompt_mask.bool()]
            assert torch.equal(row[: len(prompt)], prompt)
            assert (labels[: len(prompt)] == IGNORED).all()
            assert torch.equal(labels[len(prompt) : int(mask.sum())], row[len(prompt) : int(mask.sum())])
            assert row[int(mask.sum()) - 1] == eos
            assert (labels[int(mask.sum()) :] == IGNORED).all()


def test_rows_held_out_are_seeded_disjoint_and_complete(make):
    module = make(val_size=5)
    module.setup("fit")
    held_out = ids(module.val_dataloader())
    assert len(held_out) == 5
    assert module.describe()["rows"] == {"train": 15, "val": 5}
    again, other = make(val_size=5), make(val_size=5, seed=43)
    for twin in (again, other):
        twin.setup("validate")
    assert ids(again.val_dataloader()) == held_out
    assert sorted(ids(other.val_dataloader())) != sorted(held_out)
    trained = {int(row.sum()) for batch in module.train_dataloader() for row in batch["input_ids"]}
    assert len(trained) > 1


def test_a_single_file_is_split_as_asked(make, gsm8k_folder):
    sizes = {"path": str(gsm8k_folder / "train.jsonl"), "test_size": 4}
    module = make(**sizes, val_size=3)
    module.setup()
    assert module.describe()["rows"] == {"train": 13, "val": 3, "test": 4}
    tested, validated = set(ids(module.test_dataloader())), set(ids(module.val_dataloader()))
    assert not tested & validated
    without_val = make(**sizes)
    without_val.setup("test")
    assert set(ids(without_val.test_dataloader())) == tested  # val_size does not move the test rows


def test_a_val_file_is_the_validation_split(make, gsm8k_folder):
    (gsm8k_folder / "val.jsonl").write_text((gsm8k_folder / "test.jsonl").read_text())
    module = make()
    module.setup("fit")
    assert module.describe()["rows"] == {"train": 20, "val": 7}
    with pytest.raises(ValueError, match=r"data.val_size=2 holds rows out of train, but .* has val rows of its own"):
        make(val_size=2).setup("fit")


def test_limits_keep_the_first_rows(make):
    module = make(limit_train=6, limit_val=2, limit_test=3, val_size=5)
    module.setup()
    assert module.describe()["rows"] == {"train": 6, "val": 2, "test": 3}
    assert sorted(ids(module.test_dataloader())) == [0, 1, 2]


def test_truncation_is_counted_and_rows_without_a_label_are_dropped_from_training_only(make, write_rows, capsys):
    rows = [{"question": "?" * size, "answer": "#### 1"} for size in (1, 5, 40)]
    path = write_rows("long/train.jsonl", rows).parent
    write_rows("long/test.jsonl", rows)
    # qa adds 19 characters, one underline and BOS around a question; the answer has 6 and EOS.
    module = make(path=str(path), max_length=29)
    module.setup()
    counts = module.describe()
    assert counts["truncated"] == {"train": 2, "test": 2}
    assert capsys.readouterr().out.splitlines() == [
        "train: 2 of 3 rows cut at data.max_length=29 (their EOS is lost), 1 dropped without a label",
        "test: 2 of 3 rows cut at data.max_length=29 (their EOS is lost), 1 without a label",
    ]
    assert counts["dropped"] == {"train": 1, "test": 0}
    assert counts["unlabelled"] == {"train": 0, "test": 1}
    assert counts["rows"] == {"train": 2, "test": 3}
    batch = next(iter(module.test_dataloader()))
    assert batch["prompt_mask"].sum(1).tolist() == [61, 26, 22]  # prompts are never cut
    assert (batch["labels"][0] == IGNORED).all()
    assert batch["input_ids"].shape[1] == 29
    labelled = sum(int((batch["labels"] != IGNORED).sum()) for batch in module.train_dataloader())
    assert labelled == counts["labelled_tokens"]["train"] == 7 + 3


def test_all_rows_dropped_is_an_error_with_the_way_out(make):
    with pytest.raises(ValueError, match=r"train: none of 20 rows has a label left at data.max_length=8; the shortest"):
        make(max_length=8).setup("fit")


def test_epochs_shuffle_differently_and_reproducibly(make):
    module, twin = make(), make()
    module.setup("fit")
    twin.setup("fit")
    loader, again = module.train_dataloader(), twin.train_dataloader()
    first = [batch["input_ids"].tolist() for batch in loader]
    assert [batch["input_ids"].tolist() for batch in again] == first
    loader.batch_sampler.sampler.set_epoch(1)
    assert [batch["input_ids"].tolist() for batch in loader] != first


def test_setup_is_idempotent_and_lazy(make):
    module = make()
    module.setup("test")
    assert set(module.describe()["rows"]) == {"test"}
    served = module._splits["test"]
    module.setup("test")
    module.setup("predict")
    assert module._splits["test"] is served
    with pytest.raises(ValueError, match=r"the train split is not built; call setup\(\) first"):
        module.train_dataloader()


def test_another_tokenizer_encodes_anew(make, make_tokenizer, monkeypatch):
    module = make("llama")
    module.setup("fit")
    before = module.describe()["tokens"]["train"]
    other = make_tokenizer("no_bos")
    monkeypatch.setattr(module, "resolve_tokenizer", lambda: other)
    module.setup("fit")
    assert module.describe()["tokens"]["train"] == before - 20 * 2  # neither BOS nor the underline in front


def test_the_description_is_plain_json_and_names_the_content(make, gsm8k_folder):
    import hashlib

    module = make(prompt="alpaca", max_length=300)
    module.setup()
    described = json.loads(json.dumps(module.describe()))
    assert described["name"] == "GSM8KDataModule"
    assert described["max_length"] == 300
    assert described["prompt"].endswith("### Response:\n")
    content = (gsm8k_folder / "test.jsonl").read_bytes()
    assert described["sha256"]["test.jsonl"] == hashlib.sha256(content).hexdigest()


def test_scores_read_generated_text_up_to_the_stop_string(make):
    extractors = make().answer_extractors
    assert list(extractors) == ["exact_match", "flexible_match"]
    text = "so 7\n#### 7\nQuestion: next?\nAnswer:\n#### 9"
    assert extractors["exact_match"](text) == "7"
    assert extractors["flexible_match"]("it is 1,007.") == "1007"
    assert extractors["exact_match"]("it is 7") is None
    plain = make(prompt="plain").answer_extractors  # no stop strings: what the model invents behind its answer stays
    assert plain["exact_match"](text) == "7"
    assert plain["flexible_match"](text) == "9"


def test_other_columns(make, write_rows):
    file = write_rows("mine.jsonl", [{"q": "1+1?", "a": "#### 2"}, {"q": "1+2?", "a": "#### 3"}])
    module = make(path=str(file), question_column="q", answer_column="a")
    module.setup("fit")
    assert module.describe()["rows"] == {"train": 2}
    with pytest.raises(ValueError, match=r"mine.jsonl:1: no column 'question'"):
        make(path=str(file), answer_column="a").setup("fit")


def test_a_gold_answer_without_a_marker_is_named(make, write_rows):
    good, bad = {"question": "1+1?", "answer": "#### 2"}, {"question": "1+1?", "answer": "it is 2"}
    path = write_rows("faulty/train.jsonl", [good, good, bad]).parent
    message = r"train.jsonl:3: the gold answer must end in '#### number', got 'it is 2'"
    with pytest.raises(ValueError, match=message):
        make(path=str(path)).setup("fit")


def test_stages_without_rows_say_how_to_get_some(make, gsm8k_folder):
    with pytest.raises(ValueError, match=r"validate needs val rows, and .* has none; .* with data.val_size"):
        make().setup("validate")
    with pytest.raises(ValueError, match=r"test needs test rows, .* with data.test_size"):
        make(path=str(gsm8k_folder / "train.jsonl")).setup("test")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"val_size": 20}, r"data.val_size=20 and data.test_size=0 leave no training row of 20; lower them"),
        ({"test_size": 3}, r"data.test_size=3 holds rows out of train, but .* has test rows of its own"),
    ],
)
def test_impossible_splits_are_refused(make, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs).setup("fit")


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("batch_size", 0, 1),
        ("eval_batch_size", 0, 1),
        ("num_workers", -1, 0),
        ("pad_to_multiple_of", 0, 1),
        ("max_length", 0, 1),
        ("val_size", -1, 0),
        ("test_size", -1, 0),
        ("limit_train", 0, 1),
        ("limit_val", 0, 1),
        ("limit_test", 0, 1),
    ],
)
def test_sizes_out_of_range_are_refused(name, value, least):
    with pytest.raises(ValueError, match=f"data.{name} must be at least {least}, got {value}"):
        GSM8KDataModule(**{name: value})


def test_an_unknown_template_is_refused_at_once():
    with pytest.raises(ValueError, match="no prompt template 'qaa'; did you mean 'qa'"):
        GSM8KDataModule(prompt="qaa")


def test_without_a_tokenizer_the_way_out_is_named(gsm8k_folder):
    with pytest.raises(ValueError, match=r"no tokenizer: give the data module one \(tokenizer=...\), or attach it"):
        GSM8KDataModule(path=str(gsm8k_folder)).setup("fit")


def test_the_hub_is_read_where_no_path_is_given(make, monkeypatch):
    from wegeft_pl.data.rows import Row
    from wegeft_pl.data.text import prompted

    def read(repository, config, split, columns):
        assert (repository, config, columns) == ("openai/gsm8k", "main", ("question", "answer"))
        return [Row({"question": f"{i}?", "answer": f"#### {i}"}, f"{split} {i}") for i in range(3)]

    monkeypatch.setattr(prompted, "read_hub_rows", read)
    module = make(path=None, val_size=1)
    module.prepare_data()
    module.setup()
    assert module.describe()["rows"] == {"train": 2, "val": 1, "test": 3}
    assert module.describe()["path"] == "openai/gsm8k/main"
    assert set(module.describe()["sha256"]) == {"train", "test"}
