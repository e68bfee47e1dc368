"""Tokenizers that make other ids have other fingerprints; what a call changes does not count."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from wegeft_pl.backbones.fingerprint import tokenizer_fingerprint


@pytest.fixture
def tokenizer(llama_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(llama_folder)


def test_loading_again_and_calls_change_nothing(llama_folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "a b"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(tokenizer) == before
    assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(llama_folder)) == before


def test_vocabulary_special_tokens_and_chat_template_count(tokenizer: PreTrainedTokenizerBase) -> None:
    found = [tokenizer_fingerprint(tokenizer)]
    tokenizer.add_tokens(["new"])
    found.append(tokenizer_fingerprint(tokenizer))
    tokenizer.eos_token = "<s>"
    found.append(tokenizer_fingerprint(tokenizer))
    tokenizer.chat_template = "{{ messages }}"
    found.append(tokenizer_fingerprint(tokenizer))
    assert len(set(found)) == 4


def test_of_anything_else_nothing_is_known() -> None:
    assert tokenizer_fingerprint(object()) is None
