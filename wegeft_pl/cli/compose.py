"""``wegeft_pl compose``: two saved adapters of linear generators joined into one, without their base."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from wegeft_pl.adapter.algebra import Truncation, add, compose, recompress
from wegeft_pl.adapter.saved import SavedAdapter
from wegeft_pl.adapter.whole_folder import whole_folder
from wegeft_pl.cli.base_model import claim_output
from wegeft_pl.cli.failure import UsageError
from wegeft_pl.cli.light_parser import LightParser
from wegeft_pl.cli.quiet import silence_chatter


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: the arguments after ``compose``.

    Returns:
        The exit code.

    Raises:
        UsageError: not two adapters were given.
    """
    silence_chatter()
    options = _parser().parse_args(argv)
    if len(options.adapter) != 2:
        raise UsageError(
            f"compose joins two adapters, got {len(options.adapter)}; give --adapter twice, first one first"
        )
    claim_output(options.output)
    first, second = (SavedAdapter.read(folder) for folder in options.adapter)
    if options.weights is None:
        joined = compose(first, second, any_base=options.any_base)
    else:
        joined = add(first, second, tuple(options.weights), any_base=options.any_base)
    losses: dict[str, Truncation] = {}
    if options.rank is not None:
        joined, losses = recompress(joined, options.rank)
    with whole_folder(options.output) as building:
        joined.write(building)
    facts: dict[str, Any] = {
        "path": str(options.output),
        "rank": joined.config.rank,
        "groups": list(joined.groups),
        "lost": {name: dataclasses.asdict(loss) for name, loss in losses.items()},
    }
    if options.json:
        json.dump(facts, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        how = "the second on the first's merged weights" if options.weights is None else f"weights {options.weights}"
        print(f"rank {facts['rank']}, {how}: {options.output}")
        for name, loss in losses.items():
            print(f"{name}: lost {loss.relative:.2%} of the change, at most {loss.spectral:.2g} of any layer's weight")
    return 0


def _parser() -> LightParser:
    parser = LightParser(prog="wegeft_pl compose", description=__doc__)
    parser.add_argument("--adapter", type=Path, action="append", required=True, help="adapter folder; give it twice")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it must not exist or be empty")
    parser.add_argument(
        "--weights",
        type=float,
        nargs=2,
        metavar=("W1", "W2"),
        help="add the changes with these weights, instead of putting the second on top of the first's merged weights",
    )
    parser.add_argument("--rank", type=int, help="cut the result to this rank by an SVD (default: the sum, exact)")
    parser.add_argument("--any_base", action="store_true", help="accept adapters of different bases")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    return parser
