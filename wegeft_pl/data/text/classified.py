"""Texts with their class or number as token ids, and batches of them.

Shapes: B batch, T tokens of the longest text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from wegeft_pl.data.text.collate import pad
from wegeft_pl.losses import IGNORED

#: Marks a row that only keeps a process in step with the others.
NO_INDEX = -1


class PairTokenizer(Protocol):
    """What is asked of a transformers tokenizer here."""

    def __call__(self, text: Any, text_pair: Any = None, **options: Any) -> Mapping[str, Any]:
        """Encodes lists of texts, alone or in pairs."""
        ...

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many tokens it puts around a text or a pair."""
        ...


@dataclass(frozen=True)
class ClassifiedText:
    """One text, or pair of texts, with its label.

    Args:
        index: the row's number in the file that it comes from.
        input_ids: token ids, special tokens included, cut at the maximum length.
        token_type_ids: which text of the pair a token belongs to; None where the tokenizer does not say.
        label: the number of the class, or the value to predict.
        truncated: whether tokens were cut off.
    """

    index: int
    input_ids: list[int]
    token_type_ids: list[int] | None
    label: int | float
    truncated: bool


def encode_texts(
    tokenizer: PairTokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> list[tuple[list[int], list[int] | None, bool]]:
    """Encodes texts with the tokenizer's own special tokens.

    Args:
        tokenizer: a transformers tokenizer.
        texts: N texts.
        pairs: N second texts, or None.
        max_length: most tokens of a text or pair; of a pair, the longer text is cut first.

    Returns:
        N times: token ids, token types (None where the tokenizer gives none), and whether something was cut.

    Raises:
        ValueError: no token of a text would fit between the special ones.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    least = special + (1 if pairs is None else 2)
    if max_length < least:
        raise ValueError(f"data.max_length must be at least {least} with this tokenizer, got {max_length}")
    # verbose=False turns off the message about sequences beyond the model's length, which are cut below.
    encoded = tokenizer(list(texts), None if pairs is None else list(pairs), verbose=False)
    long = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) > max_length]
    rows = {row: row for row in range(len(texts))}
    cut: Mapping[str, Any] = {}
    if long:
        cut = tokenizer(
            [texts[row] for row in long],
            None if pairs is None else [pairs[row] for row in long],
            truncation=True,
            max_length=max_length,
        )
        rows = {row: number for number, row in enumerate(long)}
    found = []
    for row in range(len(texts)):
        truncated = bool(cut) and row in rows
        source, number = (cut, rows[row]) if truncated else (encoded, row)
        types = source["token_type_ids"][number] if "token_type_ids" in source else None
        found.append((source["input_ids"][number], types, truncated))
    return found


@dataclass(frozen=True)
class ClassifiedCollator:
    """Makes a batch: ``input_ids``, ``attention_mask`` (B, T), ``labels`` and ``indices`` (B,), padded on the right.

    ``token_type_ids`` (B, T) are there where the tokenizer gives them. All are int64; labels to regress are float32.

    Args:
        pad_id: the id in ``input_ids`` behind a text's end.
        pad_to_multiple_of: round T up to a multiple of this (8 suits tensor cores).
        regression: whether labels are numbers to predict.
    """

    pad_id: int
    pad_to_multiple_of: int | None = None
    regression: bool = False

    def __call__(self, examples: Sequence[ClassifiedText]) -> dict[str, Tensor]:
        """Pads one batch."""
        ids = [example.input_ids for example in examples]
        types = [example.token_type_ids for example in examples if example.token_type_ids is not None]
        batch = {
            "input_ids": pad(ids, self.pad_id, "right", self.pad_to_multiple_of),
            "attention_mask": pad([[1] * len(row) for row in ids], 0, "right", self.pad_to_multiple_of),
        }
        if types:
            batch["token_type_ids"] = pad(types, 0, "right", self.pad_to_multiple_of)
        kind = torch.float32 if self.regression else torch.int64
        batch["labels"] = torch.tensor([example.label for example in examples], dtype=kind)
        batch["indices"] = torch.tensor([example.index for example in examples])
        return batch


def blank_classified(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Makes a batch count for nothing: no label (-100, or NaN where labels are numbers), and -1 as every index."""
    labels = batch["labels"]
    nothing = float("nan") if labels.is_floating_point() else IGNORED
    indices = torch.full_like(batch["indices"], NO_INDEX)
    return {**batch, "labels": torch.full_like(labels, nothing), "indices": indices}
