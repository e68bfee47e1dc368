"""Pairs tokenised together, in this process or others, are those tokenised one by one."""

import io

import pytest
from rich.console import Console

from wegeft_pl.data.text import parallel, tokenize
from wegeft_pl.data.text.chat import make_chat_encoder
from wegeft_pl.data.text.messages import Conversation, Message
from wegeft_pl.data.text.parallel import encode_all
from wegeft_pl.data.text.tokenize import ExampleEncoder, PairTaker, TextPair, chunks

PAIRS = [
    TextPair(f"Question: {'7' * (number % 9)}:", f"{number} it is" * (number % 4), f"f:{number}")
    for number in range(53)
]

LAST = (Message("user", "And?"), Message("assistant", ":7"))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(tokenize, "CHUNK", 10)


@pytest.mark.parametrize("train_on_prompt", [False, True])
def test_many_are_as_one_by_one(tokenizer, train_on_prompt):
    encoder = ExampleEncoder(tokenizer, 40, train_on_prompt)
    expected = [encoder.encode(prompt, response) for prompt, response, _ in PAIRS]
    assert list(ExampleEncoder(tokenizer, 40, train_on_prompt).encode_many(iter(PAIRS))) == expected
    assert any(example.truncated for example in expected)


def test_chunks_are_short_in_texts_and_in_characters(monkeypatch):
    assert [len(chunk) for chunk in chunks(PAIRS)] == [10, 10, 10, 10, 10, 3]
    monkeypatch.setattr(tokenize, "CHUNK_CHARACTERS", 60)
    assert [pair for chunk in chunks(iter(PAIRS)) for pair in chunk] == PAIRS
    assert max(len(chunk) for chunk in chunks(PAIRS)) < 6
    assert list(chunks([])) == []


@pytest.mark.slow
def test_other_processes_change_nothing(make_tokenizer):
    encoder = ExampleEncoder(make_tokenizer("merges_the_boundary"), 40)
    expected = list(encoder.encode_many(PAIRS))
    assert list(encode_all(encoder, iter(PAIRS), len(PAIRS), 2, "train")) == expected


@pytest.mark.slow
def test_other_processes_change_no_conversation(make_tokenizer):
    talks = [
        Conversation((Message("user", f"1+{n}:"), Message("assistant", "7" * (n % 5)), *LAST[: n % 3]), f"f:{n}")
        for n in range(25)
    ]
    encoder = make_chat_encoder("plain", make_tokenizer("merges_the_boundary"), 40, "all_turns")
    expected = [encoder.encode(talk) for talk in talks]
    assert list(encode_all(encoder, iter(talks), len(talks), 2, "train")) == expected


def test_a_prompt_without_a_token_is_named_by_its_place(make_tokenizer):
    encoder = ExampleEncoder(make_tokenizer("gpt2"), 40)
    with pytest.raises(ValueError, match=r"^f:9: prompt '' has no token; a model cannot generate from nothing"):
        list(encoder.encode_many([*PAIRS, TextPair("", "a", "f:9")]))
    with pytest.raises(ValueError, match=r"^prompt '' has no token"):
        list(encoder.encode_many([TextPair("", "a")]))


@pytest.mark.parametrize(("terminal", "total", "shown"), [(True, 5000, True), (False, 5000, False), (True, 53, False)])
def test_a_bar_where_someone_looks_on(make_tokenizer, monkeypatch, terminal, total, shown):
    screen = io.StringIO()
    monkeypatch.setattr(parallel, "Console", lambda stderr: Console(file=screen, force_terminal=terminal, width=90))
    encoder = ExampleEncoder(make_tokenizer("llama"), 40)
    assert len(list(encode_all(encoder, PAIRS, total, None, "train"))) == len(PAIRS)
    assert ("tokenising train" in screen.getvalue()) == shown


def test_a_taker_keeps_texts_for_later(make_tokenizer):
    taker = PairTaker(ExampleEncoder(make_tokenizer("llama"), 40))
    assert taker.take("f:1") is None
    assert taker.encode("a", "b").input_ids == []
    assert taker.take("f:2") == TextPair("a", "b", "f:2")
    assert taker.take("f:2") is None
    assert taker.encode_prompt("a") == ExampleEncoder(make_tokenizer("llama"), 40).encode_prompt("a")
