"""What a tokenised data set looks like: samples with what is learned in them, lengths, and what padding costs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from wegeft_pl.data.grouping import GroupedOrder
from wegeft_pl.data.order import BatchOrder
from wegeft_pl.data.sources import Split
from wegeft_pl.data.text.collate import ScoredExample
from wegeft_pl.data.text.packing import PackedOrder, PackedRows
from wegeft_pl.data.text.token_store import Chosen, facts_of
from wegeft_pl.data.text.tokenize import EncodedExample
from wegeft_pl.losses import IGNORED

#: More samples than this are not looked at one by one.
LOOKED_AT = 20_000
#: Bars of the length histogram.
BARS = 12


def encoded_of(dataset: Dataset | None) -> Sequence[EncodedExample] | None:
    """Returns the tokenised samples of a dataset; None for one that has none, such as classified texts."""
    from wegeft_pl.data.text.prompted import Examples
    from wegeft_pl.data.text.windows import TokenWindows

    if isinstance(dataset, PackedRows):
        return dataset.examples
    if isinstance(dataset, TokenWindows):
        return [dataset[number * dataset.stride] for number in range(min(len(dataset), LOOKED_AT))]
    if not isinstance(dataset, Examples) or not len(dataset):
        return None
    first = dataset.examples[0]
    if isinstance(first, ScoredExample):
        return [example.encoded for example in dataset.examples]
    return dataset.examples if isinstance(first, EncodedExample) else None


def text_preview(
    splits: Mapping[Split, Dataset | None],
    tokenizer: Any,
    batch_size: int,
    capacity: int | None,
    seed: int,
    num_samples: int,
) -> dict[str, Any]:
    """Looks at the training split, or the first one there is.

    Args:
        splits: built.
        tokenizer: of transformers.
        batch_size: for the shares of padding.
        capacity: tokens of a packed row; None: rows cannot be packed.
        seed: of the training order.
        num_samples: how many samples to show.

    Returns:
        Plain JSON types; empty where no split holds tokenised samples.
    """
    found = {split: encoded for split, dataset in splits.items() if (encoded := encoded_of(dataset)) is not None}
    if not found:
        return {}
    split, encoded = next(iter(found.items()))
    facts = facts_of(encoded)
    numbers = sorted(random.Random(seed).sample(range(len(encoded)), min(num_samples, len(encoded))))
    looked_at = Chosen(encoded, np.arange(min(len(encoded), LOOKED_AT)))
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    lengths = facts.lengths.tolist()
    return {
        "split": split,
        "samples": [{"row": number, **show(encoded[number], tokenizer)} for number in numbers],
        "lengths": length_summary(lengths),
        "learned_tokens": int(facts.num_labels.sum()),
        "tokens": int(facts.lengths.sum()),
        "looked_at": len(looked_at),
        "eos": None if eos is None else tokenizer.decode([eos]),
        "eos_learned": sum(one.labels[-1] == eos != IGNORED for one in looked_at),
        "bos": None if bos is None else tokenizer.decode([bos]),
        "bos_first": sum(one.input_ids[:1] == [bos] for one in looked_at),
        "bos_doubled": sum(one.input_ids[:2] == [bos, bos] for one in looked_at),
        "padding": padding_shares(lengths[:LOOKED_AT], batch_size, capacity, seed),
    }


def show(example: EncodedExample, tokenizer: Any) -> dict[str, Any]:
    """Cuts a sample's text where learned tokens begin or end, special tokens visible.

    Args:
        example: a sample.
        tokenizer: that made it.

    Returns:
        ``tokens``, ``truncated``, and ``parts``: texts in order, each with whether its tokens are learned.
    """
    parts: list[dict[str, Any]] = []
    start, before = 0, ""
    for stop in range(1, len(example.labels) + 1):
        learned = [label != IGNORED for label in example.labels[start : stop + 1]]
        if stop < len(example.labels) and learned[-1] == learned[0]:
            continue
        # The whole text so far, less what was shown: a token's text depends on those in front of it.
        text = tokenizer.decode(example.input_ids[:stop], skip_special_tokens=False)
        piece = (
            text.removeprefix(before) if text.startswith(before) else tokenizer.decode(example.input_ids[start:stop])
        )
        parts.append({"text": piece, "learned": learned[0]})
        start, before = stop, text
    return {"tokens": len(example.input_ids), "truncated": example.truncated, "parts": parts}


def length_summary(lengths: Sequence[int]) -> dict[str, Any]:
    """Returns least, median, 95th percentile and greatest length, and a histogram of first, last and count of each bar.

    Example:
        >>> length_summary([1, 2, 2, 24])["histogram"][0]
        [1, 2, 3]
    """
    width = -(-max(lengths) // BARS)
    bars = [[start, start + width - 1, 0] for start in range(1, max(lengths) + 1, width)]
    for length in lengths:
        bars[max(length - 1, 0) // width][2] += 1
    return {
        "least": min(lengths),
        "median": int(np.median(lengths)),
        "percentile_95": int(np.percentile(lengths, 95)),
        "greatest": max(lengths),
        "histogram": bars,
    }


def padding_shares(lengths: Sequence[int], batch_size: int, capacity: int | None, seed: int) -> dict[str, float]:
    """Returns which share of the tokens of an epoch's batches is padding, by how they are made.

    Args:
        lengths: tokens of each sample.
        batch_size: rows of a batch.
        capacity: tokens of a packed row; None: rows cannot be packed.
        seed: of the order.

    Example:
        >>> shares = padding_shares([2, 8, 2, 8], batch_size=2, capacity=10, seed=0)
        >>> shares["group_by_length"], shares["packing"]
        (0.0, 0.0)
    """

    def share(batches: Iterable[Sequence[int]]) -> float:
        padded = sum(len(batch) * max(batch) for batch in batches)
        return round(1 - sum(lengths) / padded, 4)

    orders = {
        "shuffled": BatchOrder(len(lengths), batch_size, True, seed),
        "group_by_length": GroupedOrder(lengths, batch_size, True, seed),
    }
    shares = {
        name: share([[lengths[row] for row in batch] for batch in order.batches()]) for name, order in orders.items()
    }
    if capacity is not None:
        order = PackedOrder(PackedRows([], lengths, capacity, seed), batch_size, True, seed)
        packed = [[sum(lengths[number] for number in row) for row in batch] for batch in order.batches()]
        shares["packing"] = share(packed)
    return shares
