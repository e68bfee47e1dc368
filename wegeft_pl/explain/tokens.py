"""The tokens that each cluster attends to most over a text.

Shapes: B windows, T tokens, O out features, K clusters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from wegeft_pl.adapter import Site
from wegeft_pl.explain.directions import cluster_directions
from wegeft_pl.explain.outputs import collect_outputs


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    all_special_ids: list[int]

    def __call__(self, text: str, *, verbose: bool) -> Any:
        """Its ``input_ids`` are the text's tokens."""
        ...

    def decode(self, ids: list[int]) -> Any:
        """The text of some tokens."""
        ...


@dataclass(frozen=True)
class Found:
    """One token at the end of a cluster's map.

    Args:
        token: its text.
        before: the text of the tokens before it.
        after: of those behind it.
        score: the map's value there, in standard deviations from its mean over the text.
    """

    token: str
    before: str
    after: str
    score: float


@dataclass(frozen=True)
class ClusterTokens:
    """The two ends of one cluster's map over a text.

    Args:
        layer: the site's name.
        cluster: its index.
        highest: tokens of the highest values, each token once.
        lowest: of the lowest; which end is which has no meaning but for generators with PaCa.
    """

    layer: str
    cluster: int
    highest: tuple[Found, ...]
    lowest: tuple[Found, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)


def read_windows(file: Path, tokenizer: Tokenizer, max_length: int, limit: int | None) -> Tensor:
    """Cuts a text file into windows of tokens.

    Args:
        file: UTF-8.
        tokenizer: the base's.
        max_length: T.
        limit: so many windows from the start; None means all.

    Returns:
        (B, T) int64; the tokens behind the last whole window are left out, but a text shorter than one is one window.

    Raises:
        ValueError: the file is missing, not UTF-8, or has no tokens, or a number is less than 1.
    """
    for name, value in (("max_length", max_length), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not file.is_file():
        raise ValueError(f"text: no file {file}")
    try:
        # Enough characters for the windows asked for: no tokenizer makes more than one token of 64 on average.
        text = file.read_text(encoding="utf-8")[: None if limit is None else 64 * max_length * limit]
    except UnicodeDecodeError as error:
        raise ValueError(f"text: {file} is not UTF-8 ({error.reason} at byte {error.start}); convert it") from error
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.int64)
    if not len(ids):
        raise ValueError(f"text: {file} has no tokens; give a file with words")
    length = min(max_length, len(ids))
    return ids[: len(ids) // length * length].reshape(-1, length)[:limit]


def cluster_tokens(
    model: Callable[[Tensor], Any],
    sites: Sequence[Site],
    windows_BT: Tensor,  # noqa: N803
    tokenizer: Tokenizer,
    num_tokens: int = 8,
    num_context: int = 4,
    batch_size: int = 8,
) -> list[ClusterTokens]:
    """Finds the tokens at both ends of every cluster's map m = y C, with y a layer's output.

    Special tokens, and the first token of every window, which models use as a place to attend to when they attend to
    nothing, are left out. Of a token that occurs more often the most extreme place is shown.

    Args:
        model: takes token ids (B, T); in the mode that the maps are wanted for.
        sites: the layers to look at.
        windows_BT: from :func:`read_windows`.
        tokenizer: the one that made them.
        num_tokens: for each end of each map.
        num_context: tokens shown before and behind each.
        batch_size: windows of one pass.

    Returns:
        For every layer and cluster its tokens.

    Raises:
        ValueError: a layer is not called once in a pass, or does not put out one vector for every token.
    """
    maps: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    directions = {site.name: cluster_directions(site) for site in sites}
    layouts = {site.name: site.layout for site in sites}
    device = next(sites[0].module.parameters()).device
    for batch in windows_BT.split(batch_size):
        with torch.no_grad(), collect_outputs(sites) as outputs:
            model(batch.to(device))
        for name, direction in directions.items():
            y = layouts[name].take(outputs[name])
            if y.shape != (*batch.shape, direction.shape[1]):
                raise ValueError(
                    f"clusters of tokens need {direction.shape[1]} features for each of {tuple(batch.shape)} tokens, "
                    f"and {name} gives {tuple(y.shape)}; leave it out with --layers"
                )
            maps[name].append((y.float() @ direction.T).cpu())
    counts = ~torch.isin(windows_BT, torch.tensor(tokenizer.all_special_ids))
    counts[:, 0] = windows_BT.shape[1] == 1
    if not counts.any():
        raise ValueError("the text has nothing but special tokens; give a file with words")
    found = []
    for name, parts in maps.items():
        values_BTK = torch.cat(parts)  # noqa: N806
        known = values_BTK[counts].double()
        mean, deviation = known.mean(0), known.std(0, correction=0).clamp(min=torch.finfo(torch.float64).tiny)
        scores_BTK = (values_BTK.double() - mean) / deviation  # noqa: N806
        for cluster in range(scores_BTK.shape[2]):
            ends = [
                _ends(scores_BTK[..., cluster], sign, counts, windows_BT, tokenizer, num_tokens, num_context)
                for sign in (1, -1)
            ]
            found.append(ClusterTokens(name, cluster, ends[0], ends[1]))
    return found


def _ends(
    scores_BT: Tensor,  # noqa: N803
    sign: int,
    counts_BT: Tensor,  # noqa: N803
    windows_BT: Tensor,  # noqa: N803
    tokenizer: Tokenizer,
    num_tokens: int,
    num_context: int,
) -> tuple[Found, ...]:
    order = (sign * scores_BT).masked_fill(~counts_BT, -torch.inf).flatten().argsort(descending=True, stable=True)
    seen: set[int] = set()
    found: list[Found] = []
    for place in order[: int(counts_BT.sum())].tolist():
        row, column = divmod(place, windows_BT.shape[1])
        ids = windows_BT[row].tolist()
        if ids[column] in seen:
            continue
        seen.add(ids[column])
        first = max(0, column - num_context)
        # Decoded together and cut apart: many tokenizers drop the space before a token that stands alone.
        ends = (column, column + 1, column + 1 + num_context)
        before, up_to, whole = (str(tokenizer.decode(ids[first:end])) for end in ends)
        score = scores_BT[row, column].item()
        found.append(Found(up_to[len(before) :], before, whole[len(up_to) :], score))
        if len(found) == num_tokens:
            break
    return tuple(found)
