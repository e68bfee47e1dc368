"""What ``wegeft_pl data`` prints: samples, lengths, counts, padding."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_BAR = 40
#: What each way to make batches is called where it is chosen.
_WAYS = {"shuffled": "as they come", "group_by_length": "data.group_by_length", "packing": "data.packing"}


def print_preview(facts: dict[str, Any], console: Console | None = None) -> None:
    """Prints a data module's preview.

    Args:
        facts: ``data`` (its description), ``batch``, and perhaps ``text`` and ``class_counts``.
        console: where to; None: standard output.
    """
    console = console or Console()
    data, text = facts["data"], facts.get("text") or {}
    console.print(f"[bold]{data.get('name', 'data')}[/]: {data.get('path')}", highlight=False, soft_wrap=True)
    _print_counts(data, console)
    if text:
        _print_text(data, text, console)
    counts = facts.get("class_counts") or data.get("class_counts") or {}
    if counts:
        _print_classes(counts, console)
    for name, value in facts["batch"].items():
        console.print(f"batch {name}: {value}", highlight=False)
    settings = {name: value for name, value in data.items() if not isinstance(value, dict) and name not in _SHOWN}
    console.print(", ".join(f"{name} {value!r}" for name, value in settings.items()), highlight=False, style="dim")
    for number, sample in enumerate(text.get("samples", []), 1):
        _print_sample(number, sample, console)


#: Settings that are printed elsewhere.
_SHOWN = {"name", "path", "prompt", "response"}


def _print_counts(data: dict[str, Any], console: Console) -> None:
    counts = {
        name: value
        for name, value in data.items()
        if isinstance(value, dict) and value and all(isinstance(count, int) for count in value.values())
    }
    splits = list(dict.fromkeys(split for value in counts.values() for split in value))
    if not splits:
        return
    table = Table("", *splits)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in counts.items():
        cells = [f"{value[split]:,}" if split in value else "" for split in splits]
        table.add_row(
            name.replace("_", " "), *cells, style="yellow" if name == "truncated" and any(value.values()) else None
        )
    console.print(table)


def _print_text(data: dict[str, Any], text: dict[str, Any], console: Console) -> None:
    rows = text["looked_at"]
    learned = text["learned_tokens"] / text["tokens"]
    lines = [f"template {data['prompt']!r}"] if "prompt" in data else []
    lines.append(f"learned tokens: {text['learned_tokens']:,} of {text['tokens']:,} ({100 * learned:.1f} %)")
    lines.append(
        f"EOS {text['eos']!r} is learned in {text['eos_learned']:,} of {rows:,} rows ({_yes(text['eos_learned'])})"
    )
    bos = f"BOS {text['bos']!r} stands first in {text['bos_first']:,} of {rows:,} rows"
    lines.append(f"{bos}, and twice in {text['bos_doubled']:,} (doubled: {_yes(text['bos_doubled'])})")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    lengths = text["lengths"]
    most = max(count for _, _, count in lengths["histogram"])
    console.print(
        f"tokens a row ({text['split']}): {lengths['least']} to {lengths['greatest']}, median {lengths['median']}, "
        f"95 % up to {lengths['percentile_95']}",
        highlight=False,
    )
    for first, last, count in lengths["histogram"]:
        bar = "#" * (-(-_BAR * count // most))
        console.print(Text(f"{first:>6} - {last:<6} {bar:<{_BAR}} {count:,}", style="cyan"))
    shares = (f"{_WAYS[way]} {100 * share:.1f} %" for way, share in text["padding"].items())
    console.print(f"padding in an epoch's batches: {', '.join(shares)}", highlight=False)


def _yes(count: int) -> str:
    return "yes" if count else "no"


def _print_classes(counts: dict[str, dict[str, int]], console: Console) -> None:
    names = list(dict.fromkeys(name for of_split in counts.values() for name in of_split))
    table = Table("class", *counts)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in names:
        table.add_row(Text(str(name)), *(f"{of_split.get(name, 0):,}" for of_split in counts.values()))
    console.print(table)


def _print_sample(number: int, sample: dict[str, Any], console: Console) -> None:
    cut = ", cut" if sample["truncated"] else ""
    console.rule(Text(f"sample {number}: row {sample['row']}, {sample['tokens']} tokens{cut}"), align="left")
    shown = Text()
    for part in sample["parts"]:
        # Where there are no colours, marks say the same.
        marked = part["text"] if console.is_terminal or not part["learned"] else f"{{+{part['text']}+}}"
        shown.append(marked, style="bold green" if part["learned"] else "dim")
    console.print(shown, soft_wrap=True)
