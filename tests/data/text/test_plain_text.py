"""The plain-text data module: split by characters, windows, BOS, errors."""

import json

import pytest

from wegeft_pl.data import PlainTextDataModule
from wegeft_pl.losses import labelled_positions

TEXT = "".join(f"Line {number}: so it goes.\n" for number in range(100))


@pytest.fixture
def make(make_tokenizer, tmp_path, monkeypatch):
    """Makes a data module on a small text with a small tokenizer."""
    (tmp_path / "input.txt").write_text(TEXT)

    def make(kind="pad_is_eos", **kwargs):
        module = PlainTextDataModule(**{"path": str(tmp_path), "window": 32, "batch_size": 4, **kwargs})
        tokenizer = make_tokenizer(kind)
        monkeypatch.setattr(module, "resolve_tokenizer", lambda: tokenizer)
        return module

    return make


def text_of(loader, tokenizer):
    rows = [
        row[mask.bool()].tolist()
        for batch in loader
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    return "".join(tokenizer.decode(row, skip_special_tokens=True) for row in rows)


@pytest.mark.parametrize("kind", ["pad_is_eos", "no_bos", "gpt2"])
def test_the_end_of_the_file_is_held_out_and_every_character_of_it_served(make, kind):
    module = make(kind)
    module.setup("fit")
    held_out = TEXT[len(TEXT) - round(len(TEXT) / 10) :]
    served = text_of(module.val_dataloader(), module.resolve_tokenizer())
    assert held_out.startswith(served)
    assert len(held_out) - len(served) <= 1  # without BOS a lone last token is left out
    assert module.describe()["characters"] == {"train": len(TEXT) - len(held_out), "val": len(held_out)}


def test_batches_label_everything_but_padding(make):
    module = make()
    module.setup()
    counts = module.describe()
    for split, loader in {"train": module.train_dataloader(), "val": module.val_dataloader()}.items():
        batches = list(loader)
        assert all(batch["input_ids"].shape[1] <= 32 for batch in batches)
        labelled = sum(len(labelled_positions(batch["labels"])[1]) for batch in batches)
        assert labelled == counts["labelled_tokens"][split] == counts["tokens"][split]
        assert sum(len(batch["input_ids"]) for batch in batches) == counts["rows"][split]
        for batch in batches:
            assert ((batch["labels"] != -100) == batch["attention_mask"].bool()).all()
            assert (batch["labels"] == batch["input_ids"])[batch["attention_mask"].bool()].all()


def test_bos_in_front_of_every_window_as_the_field_says(make):
    for kind, bos, expected in [
        ("pad_is_eos", None, True),
        ("pad_is_eos", False, False),
        ("no_bos", None, False),
        ("gpt2", None, False),
        ("gpt2", True, True),
    ]:
        module = make(kind, bos=bos)
        module.setup("fit")
        first = next(iter(module.train_dataloader()))["input_ids"][:, 0]
        assert (first == (module.resolve_tokenizer().bos_token_id or -1)).all().item() == expected
    with pytest.raises(ValueError, match=r"data.bos is true, but the tokenizer has no BOS token"):
        make("no_bos", bos=True).setup("fit")


def test_val_and_test_are_the_same_windows(make):
    module = make()
    module.setup()
    assert [batch["input_ids"].tolist() for batch in module.val_dataloader()] == [
        batch["input_ids"].tolist() for batch in module.test_dataloader()
    ]
    only_test = make()
    only_test.setup("test")
    assert set(only_test.describe()["rows"]) == {"test"}
    assert only_test.describe()["rows"]["test"] == module.describe()["rows"]["val"]


def test_a_random_phase_moves_training_windows_only(make):
    module = make(random_phase=True)
    module.setup("fit")
    loader = module.train_dataloader()
    epochs = []
    for epoch in (0, 1):
        loader.batch_sampler.sampler.set_epoch(epoch)
        epochs.append({tuple(row) for batch in loader for row in batch["input_ids"].tolist()})
        assert all(len(row) == 32 for row in epochs[-1])
    assert not epochs[0] & epochs[1]
    plain = make()
    plain.setup("fit")
    assert [batch["input_ids"].tolist() for batch in module.val_dataloader()] == [
        batch["input_ids"].tolist() for batch in plain.val_dataloader()
    ]


def test_a_file_and_its_description(make, tmp_path):
    module = make(path=str(tmp_path / "input.txt"))
    module.setup()
    described = json.loads(json.dumps(module.describe()))
    assert described["name"] == "PlainTextDataModule"
    assert described["window"] == 32
    assert set(described["sha256"]) == {"input.txt"}
    assert module.answer_extractors == {}


def test_errors_name_the_way_out(make, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data.path: no file or folder .*inputs.txt; did you mean 'input.txt'"):
        make(path=str(tmp_path / "inputs.txt")).setup("fit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty/input.txt; a folder must have input.txt"):
        make(path=str(tmp_path / "empty")).setup("fit")
    (tmp_path / "short.txt").write_text("ab")
    with pytest.raises(ValueError, match=r"short.txt, val: 0 tokens are too few for one window of 32"):
        make(path=str(tmp_path / "short.txt"), val_fraction=0.2).setup("fit")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt:1: byte 0xe9 is not UTF-8"):
        make(path=str(tmp_path / "latin.txt")).setup("fit")
    with pytest.raises(ValueError, match=r"data.path is null, .*; give a .txt file or a folder"):
        make(path=None).setup("fit")
    with pytest.raises(ValueError, match=r"data.window must be at least 2, got 1"):
        make(window=1)
    for fraction in (0.0, 1.0, -1):
        with pytest.raises(ValueError, match=f"data.val_fraction must lie between 0 and 1, got {fraction}"):
            make(val_fraction=fraction)
