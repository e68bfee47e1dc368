"""Samples in files come back as they were; a file that was cut or changed is found out."""

import copy
import multiprocessing

import numpy as np
import pytest

from wegeft_pl.data.text.token_store import BrokenStoreError, Chosen, TokenStore, facts_of, write_store
from wegeft_pl.data.text.tokenize import EncodedExample, encode_example
from wegeft_pl.losses import IGNORED


@pytest.fixture
def examples(make_tokenizer):
    """Whole samples, cut ones, and one whose prompt alone is longer than the input."""
    tokenizer = make_tokenizer("llama")
    texts = [("Q: 1+1?\n", "2"), ("Q: " + "9" * 30, "no"), ("Q", "a" * 40), ("Q: ", "")]
    made = [encode_example(tokenizer, prompt, response, 20) for prompt, response in texts]
    made.append(encode_example(tokenizer, "Q: 7", "7", 20, train_on_prompt=True))
    made.append(EncodedExample([1, 5, 6, 7, 2], [IGNORED, 5, IGNORED, 7, 2], [1], truncated=False))  # several turns
    return made


@pytest.fixture
def folder(examples, tmp_path):
    write_store(tmp_path / "store", iter(examples))
    return tmp_path / "store"


def test_samples_come_back_as_they_were(examples, folder):
    store = TokenStore(folder)
    store.check()
    assert list(store) == examples
    assert len(store) == 6
    assert store[1:3] == examples[1:3]
    assert any(len(example.prompt_ids) > len(example.input_ids) for example in examples)
    assert [example.truncated for example in store] == [False, True, True, False, False, False]


def test_sizes_are_those_of_the_samples(examples, folder):
    stored, held = facts_of(TokenStore(folder)), facts_of(examples)
    for mine, theirs, expected in zip(
        stored,
        held,
        (
            [len(example.input_ids) for example in examples],
            [example.prompt_length for example in examples],
            [example.truncated for example in examples],
            [sum(label != IGNORED for label in example.labels[1:]) for example in examples],
        ),
        strict=True,
    ):
        assert mine.tolist() == theirs.tolist() == expected
    assert [len(field) for field in facts_of([])] == [0, 0, 0, 0]


def test_some_of_them(examples, folder):
    for source in (examples, TokenStore(folder)):
        chosen = Chosen(source, np.array([4, 0, 2]))
        assert list(chosen) == [examples[4], examples[0], examples[2]]
        assert chosen[1:] == [examples[0], examples[2]]


def _fifth(store):
    return store[4]


@pytest.mark.slow
def test_another_process_opens_the_files_itself(examples, folder):
    store = TokenStore(folder)
    assert list(copy.copy(store)) == examples
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_fifth, (store,)) == examples[4]


@pytest.mark.parametrize("name", ["ids.bin", "labelled.bin", "rows.bin", "store.json"])
def test_a_file_that_was_cut_is_found_out(folder, name):
    file = folder / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(BrokenStoreError):
        TokenStore(folder)
    file.unlink()
    with pytest.raises(BrokenStoreError, match=name):
        TokenStore(folder)


def test_a_changed_byte_is_found_out(folder):
    data = bytearray((folder / "ids.bin").read_bytes())
    data[8] ^= 1
    (folder / "ids.bin").write_bytes(data)
    with pytest.raises(BrokenStoreError, match=r"ids.bin has another checksum"):
        TokenStore(folder).check()


def test_another_version_is_not_read(folder):
    text = (folder / "store.json").read_text()
    (folder / "store.json").write_text(text.replace('"version": 1', '"version": 0'))
    with pytest.raises(BrokenStoreError, match=r"version 0, not 1"):
        TokenStore(folder)
