"""Scores and tokens as tables: Markdown for files, rich for the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from wegeft_pl.explain.scores import Estimate, Scores
from wegeft_pl.explain.tokens import ClusterTokens, Found

#: Columns of a table of scores: their heads and the fields of :class:`Scores`.
COLUMNS = {
    "mIoU": "miou",
    "best of image": "miou_best",
    "pointing": "pointing",
    "any map": "pointing_best",
    "purity": "purity",
    "own labels": "purity_best",
}


def score_rows(scores: Mapping[str, Mapping[str, Scores]]) -> list[list[str]]:
    """The cells of a table of scores: layer, maps, then a mean for each column, the first with its interval.

    Args:
        scores: by layer, then by what was scored.
    """
    rows = []
    for layer, found in scores.items():
        for name, score in found.items():
            cells = []
            for field in COLUMNS.values():
                estimate: Estimate = getattr(score, field)
                interval = f" [{estimate.low:.2f}, {estimate.high:.2f}]" if field in ("miou", "pointing") else ""
                cells.append(f"{estimate.mean:.2f}{interval}")
            rows.append([layer, name, *cells])
    return rows


def score_markdown(scores: Mapping[str, Mapping[str, Scores]]) -> str:
    """A table of scores as Markdown."""
    return _markdown(["layer", "maps", *COLUMNS], score_rows(scores))


def score_table(scores: Mapping[str, Mapping[str, Scores]], title: str) -> Table:
    """A table of scores for the screen."""
    return _table(["layer", "maps", *COLUMNS], score_rows(scores), title)


def token_rows(found: Sequence[ClusterTokens], num_tokens: int) -> list[list[str]]:
    """The cells of a table of tokens: layer, cluster, and the two ends of its map.

    Args:
        found: from :func:`wegeft_pl.explain.cluster_tokens`.
        num_tokens: of each end.
    """
    return [
        [each.layer, str(each.cluster), _line(each.highest[:num_tokens]), _line(each.lowest[:num_tokens])]
        for each in found
    ]


def token_markdown(found: Sequence[ClusterTokens], num_tokens: int) -> str:
    """A table of tokens as Markdown."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in token_rows(found, num_tokens)]
    return _markdown(["layer", "cluster", "highest", "lowest"], rows)


def token_table(found: Sequence[ClusterTokens], num_tokens: int, title: str) -> Table:
    """A table of tokens for the screen."""
    return _table(["layer", "cluster", "highest", "lowest"], token_rows(found, num_tokens), title)


def _line(tokens: Sequence[Found]) -> str:
    return "; ".join(f"{_shown(each.before)}[{_shown(each.token)}]{_shown(each.after)}" for each in tokens)


def _shown(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    table = Table(*heads, title=title)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table
