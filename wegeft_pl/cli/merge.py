"""``wegeft_pl merge``: a saved adapter folded into its base: a Hugging Face folder, with a report of the rounding."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from wegeft_pl.adapter import MergeReport, merge
from wegeft_pl.adapter.storage import write_json
from wegeft_pl.adapter.whole_folder import whole_folder
from wegeft_pl.backbones import huggingface
from wegeft_pl.cli import base_model
from wegeft_pl.cli.light_parser import LightParser

REPORT = "merge_report.json"
#: Text whose logits are compared before and after merging, where no other is given.
PROBE = "The quick brown fox jumps over the lazy dog. 12 + 30 = 42, and 42 / 6 = 7."


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: the arguments after ``merge``.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(argv)
    base = base_model.find_base(options.adapter, options.base)
    report = write_merged(options.adapter, base, options.output, options.dtype, options.probe_text)
    if options.json:
        json.dump(report.to_dict() | {"path": str(options.output)}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print(f"{report}\nmerged model: {options.output} (AutoModelForCausalLM.from_pretrained loads it)")
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def write_merged(adapter: Path, base: str, output: Path, dtype: str, probe_text: str = PROBE) -> MergeReport:
    """Merges a saved adapter into its base and writes model, tokenizer and report.

    Args:
        adapter: the adapter folder.
        base: the base's folder or hub id.
        output: the folder to write; must not hold anything yet.
        dtype: ``"base"`` to keep the base's, or ``"float32"``.
        probe_text: text whose logits are compared before and after.

    Returns:
        The report, which is also in the folder as merge_report.json.

    Raises:
        ValueError: the output is taken, or adapter and base do not fit.
        OSError: the output cannot be written; nothing is left there.
    """
    base_model.claim_output(output)
    with whole_folder(output) as building:  # before loading, so that a place that cannot be written costs no waiting
        model, loaded = base_model.load_with_adapter(adapter, base, "auto" if dtype == "base" else dtype)
        tokenizer = huggingface.load_tokenizer(base)
        tokens = torch.tensor([tokenizer(probe_text)["input_ids"]])

        def probe() -> Tensor:
            return model(input_ids=tokens, use_cache=False).logits

        report = merge(model, loaded, probe=partial(probe))
        huggingface.save(model, building, tokenizer)
        write_json(building / REPORT, report.to_dict())
    return report


def _parser() -> LightParser:
    parser = LightParser(prog="wegeft_pl merge", description=__doc__)
    base_model.add_arguments(parser)
    parser.add_argument(
        "--dtype",
        choices=["base", "float32"],
        default="base",
        help="of the merged model; float32 where the report says that rounding took too much (default: the base's)",
    )
    parser.add_argument("--probe_text", default=PROBE, help="text whose logits are compared before and after")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser
