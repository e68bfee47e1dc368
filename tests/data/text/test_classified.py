"""Texts as ids and batches, against the tokenizer's own truncation and padding."""

from __future__ import annotations

import pytest
import torch
from word_tokenizer import bert_like

from wegeft_pl.data.text.classified import ClassifiedCollator, ClassifiedText, blank_classified, encode_texts

TEXTS = ["a b c d e f", "a", "b c"]
PAIRS = ["g h", "g h i j g h", "g"]


@pytest.mark.parametrize("pairs", [None, PAIRS])
@pytest.mark.parametrize("max_length", [6, 7, 64])
def test_ids_are_the_tokenizer_s_own(pairs: list[str] | None, max_length: int) -> None:
    tokenizer = bert_like()
    whole, own = tokenizer(TEXTS, pairs), tokenizer(TEXTS, pairs, truncation=True, max_length=max_length)
    for row, (ids, types, truncated) in enumerate(encode_texts(tokenizer, TEXTS, pairs, max_length)):
        assert (ids, types) == (own["input_ids"][row], own["token_type_ids"][row])
        assert truncated == (len(whole["input_ids"][row]) > max_length)


def test_a_tokenizer_without_token_types() -> None:
    tokenizer = bert_like()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert {types is None for _, types, _ in encode_texts(tokenizer, TEXTS, None, 4)} == {True}


@pytest.mark.parametrize(("pairs", "least"), [(None, 3), (PAIRS, 5)])
def test_special_tokens_alone_are_no_text(pairs: list[str] | None, least: int) -> None:
    with pytest.raises(ValueError, match=f"data.max_length must be at least {least} with this tokenizer"):
        encode_texts(bert_like(), TEXTS, pairs, least - 1)
    encode_texts(bert_like(), TEXTS, pairs, least)


def example(index: int, ids: list[int], label: float, types: bool = True) -> ClassifiedText:
    return ClassifiedText(index, ids, [0] * (len(ids) - 1) + [1] if types else None, label, False)


def test_a_batch_is_padded_to_its_longest_text() -> None:
    batch = ClassifiedCollator(pad_id=9)([example(4, [1, 2, 3], 1), example(2, [5, 6], 0)])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[1, 2, 3], [5, 6, 9]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "token_type_ids": [[0, 0, 1], [0, 1, 0]],
        "labels": [1, 0],
        "indices": [4, 2],
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_numbers_to_predict_are_float32_and_lengths_can_be_rounded_up() -> None:
    batch = ClassifiedCollator(0, pad_to_multiple_of=8, regression=True)([example(0, [1, 2, 3], 2.5, types=False)])
    assert batch["input_ids"].shape == (1, 8)
    assert (batch["labels"].dtype, batch["labels"].tolist()) == (torch.float32, [2.5])
    assert "token_type_ids" not in batch


@pytest.mark.parametrize("regression", [False, True])
def test_a_blank_batch_counts_for_nothing(regression: bool) -> None:
    batch = ClassifiedCollator(0, regression=regression)([example(3, [1, 2], 1)])
    blank = blank_classified(batch)
    assert blank["indices"].tolist() == [-1]
    assert torch.isnan(blank["labels"]).all() if regression else blank["labels"].tolist() == [-100]
    assert torch.equal(blank["input_ids"], batch["input_ids"])
