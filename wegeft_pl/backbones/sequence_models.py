"""Sequence classifiers from Hugging Face, and the padding that decoders among them need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wegeft_pl.backbones import huggingface

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_padding_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads a tokenizer that can pad: one without a pad token (Llama) pads with its end token.

    Padding is masked, and a decoder classifies by the last token before it.

    Args:
        name: ``bundled:NAME``, a folder, or a hub id.

    Raises:
        ValueError: there is none of that name, or it has neither token.
    """
    tokenizer = huggingface.load_tokenizer(name)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"tokenizer: {name!r} has neither a pad nor an end token; give one that has, or save it "
                             "with a pad_token")  # fmt: skip
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
