"""One split's texts: from the cache where that is worth it, the same whatever the way."""

from types import SimpleNamespace

import pytest

from wegeft_pl.data import GSM8KDataModule
from wegeft_pl.data.text.encode_split import Encoding
from wegeft_pl.data.text.token_store import TokenStore
from wegeft_pl.data.text.tokenize import ExampleEncoder, TextPair

PAIRS = [TextPair(f"Q: {number}?\n", f"{number}") for number in range(4)]


@pytest.fixture
def encoder(make_tokenizer):
    return ExampleEncoder(make_tokenizer("llama"), 50)


@pytest.mark.parametrize(("total", "stored"), [(4, False), (1000, True)])
def test_many_rows_are_kept_and_few_are_not(encoder, tmp_path, total, stored):
    encoded = Encoding(cache_dir=str(tmp_path / "cache"))(encoder, lambda: PAIRS, total, "train")
    assert isinstance(encoded, TokenStore) == stored == (tmp_path / "cache").exists()
    assert list(encoded) == [encoder.encode(prompt, response) for prompt, response, _ in PAIRS]


def test_streaming_keeps_any_number(encoder, tmp_path):
    assert isinstance(Encoding(None, str(tmp_path), True)(encoder, lambda: PAIRS, 4, "train"), TokenStore)


def test_without_a_folder_nothing_is_kept(encoder):
    assert isinstance(Encoding()(encoder, lambda: PAIRS, 1000, "train"), list)


def test_a_tokenizer_that_is_not_of_transformers(make_tokenizer, tmp_path):
    inner = make_tokenizer("llama")

    class Other(SimpleNamespace):
        def __call__(self, text, **settings):
            return inner(text, **settings)

    other = ExampleEncoder(Other(bos_token_id=1, eos_token_id=2, pad_token_id=0), 50)
    assert len(Encoding(cache_dir=str(tmp_path / "cache"))(other, lambda: PAIRS, 1000, "train")) == 4
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match=r"data.streaming needs a tokenizer of transformers; set it to false"):
        Encoding(None, str(tmp_path), True)(other, lambda: PAIRS, 4, "train")


def test_another_template_or_length_makes_other_tokens(make_tokenizer, tmp_path, write_rows):
    write_rows("set/train.jsonl", [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(1000)])

    def tokens(kind="llama", **fields):
        module = GSM8KDataModule(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"), **fields)
        tokenizer = make_tokenizer(kind)
        module.resolve_tokenizer = lambda: tokenizer
        module.setup("fit")
        module.setup("fit")
        return len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()])

    assert [tokens(), tokens(), tokens(seed=1, packing=True)] == [1, 1, 1]
    assert [tokens(prompt="alpaca"), tokens(max_length=30), tokens(train_on_prompt=True)] == [2, 3, 4]
    assert tokens("pad_is_eos") == 5
    write_rows("set/train.jsonl", [{"question": f"{n}!", "answer": f"#### {n}"} for n in range(1000)])
    assert tokens() == 6


def test_errors():
    with pytest.raises(ValueError, match=r"data.num_proc must be at least 1, got 0"):
        Encoding(num_proc=0)
