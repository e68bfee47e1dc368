"""Pads sequences into batches: on the right for the loss, on the left for generation.

Shapes: B batch, T tokens of the longest sequence, P tokens of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wegeft_pl.data.text.tokenize import EncodedExample, Tokenizer
from wegeft_pl.losses import IGNORED

Batch = dict[str, Tensor | list[str] | list[int] | int]


@dataclass(frozen=True)
class ScoredExample:
    """An example whose generated answer can be scored.

    Args:
        id: the row's number in its split, so that repeats across processes can be dropped.
        prompt: the prompt's text.
        reference: the gold answer, extracted.
        encoded: its ids and labels.
        task: which of several mixed data sets the row is from; None where there is one.
    """

    id: int
    prompt: str
    reference: str
    encoded: EncodedExample
    task: str | None = None


def get_pad_id(tokenizer: Tokenizer) -> int:
    """Returns the id to pad with: the tokenizer's pad token, else its EOS, else 0.

    Any id would do: padding is masked by position, in the attention mask and the labels, never by its id.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def pad(
    sequences: Sequence[Sequence[int]], value: int, side: Literal["left", "right"], multiple: int | None = None
) -> Tensor:
    """Pads sequences to one length.

    Args:
        sequences: B lists of ints.
        value: what to pad with.
        side: where the padding goes.
        multiple: round the length up to a multiple of this.

    Returns:
        (B, T) int64.

    Example:
        >>> pad([[1, 2], [3]], value=0, side="left", multiple=4).tolist()
        [[0, 0, 1, 2], [0, 0, 0, 3]]
    """
    length = max(len(sequence) for sequence in sequences)
    if multiple is not None:
        length = -(-length // multiple) * multiple
    padded_BT = torch.full((len(sequences), length), value, dtype=torch.int64)  # noqa: N806
    for row, sequence in zip(padded_BT, sequences, strict=True):
        size = len(sequence)
        row[length - size if side == "left" else 0 :][:size] = torch.tensor(sequence, dtype=torch.int64)
    return padded_BT


def _mask(sequences: Sequence[Sequence[int]], side: Literal["left", "right"], multiple: int | None) -> Tensor:
    return pad([[1] * len(sequence) for sequence in sequences], 0, side, multiple)


@dataclass(frozen=True)
class LossCollator:
    """Makes a batch for the loss: ``input_ids``, ``attention_mask`` and ``labels``, (B, T) int64, padded on the right.

    Args:
        pad_id: the id in ``input_ids`` behind a sequence's end.
        pad_to_multiple_of: round T up to a multiple of this (8 suits tensor cores).
    """

    pad_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: Sequence[EncodedExample]) -> Batch:
        """Pads one batch."""
        ids = [example.input_ids for example in examples]
        labels = [example.labels for example in examples]
        return {
            "input_ids": pad(ids, self.pad_id, "right", self.pad_to_multiple_of),
            "attention_mask": _mask(ids, "right", self.pad_to_multiple_of),
            "labels": pad(labels, IGNORED, "right", self.pad_to_multiple_of),
        }


@dataclass(frozen=True)
class ScoreCollator:
    """Makes a batch for loss and generation: :class:`LossCollator`'s tensors, prompts padded on the left, and texts.

    Adds ``prompt_ids`` and ``prompt_mask`` (B, P) int64, ``id`` (list of int), ``prompt`` and ``reference`` (lists of
    str), and ``task`` (list of str) where the examples have one. Generation continues at the right end, which is why
    prompts are padded on the left.

    Args:
        pad_id: the id of padding.
        pad_to_multiple_of: round T and P up to a multiple of this.
    """

    pad_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: Sequence[ScoredExample]) -> Batch:
        """Pads one batch."""
        prompts = [example.encoded.prompt_ids for example in examples]
        tasks = [example.task for example in examples if example.task is not None]
        assert len(tasks) in (0, len(examples)), "some rows have a task and some have none"
        return {
            **LossCollator(self.pad_id, self.pad_to_multiple_of)([example.encoded for example in examples]),
            "prompt_ids": pad(prompts, self.pad_id, "left", self.pad_to_multiple_of),
            "prompt_mask": _mask(prompts, "left", self.pad_to_multiple_of),
            "id": [example.id for example in examples],
            "prompt": [example.prompt for example in examples],
            "reference": [example.reference for example in examples],
            **({"task": tasks} if tasks else {}),
        }


def blank(batch: Batch) -> Batch:
    """Makes a batch that only keeps a process in step count for nothing: no labels, and -1 as each row's id.

    Args:
        batch: a collator's result.

    Returns:
        The batch with every label -100; its loss is a sum over no token, and its answers are not scored.
    """
    labels = batch["labels"]
    assert isinstance(labels, Tensor)
    ids = {"id": [-1] * len(labels)} if "id" in batch else {}
    return {**batch, "labels": torch.full_like(labels, IGNORED), **ids}
