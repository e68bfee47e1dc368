"""What must be the same on all processes is compared, and all of them say alike what differs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.distributed import EveryRankError, adapter_facts, check_agreement

WAY_OUT = "; every process must be started with the same recipe, seed, data and base"

#: Facts of rank 0, facts of rank 1, what both say.
CASES: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    ({"seed": 1, "data": {"rows": 3}}, {"seed": 1, "data": {"rows": 3}}, None),
    ({"data": {"path": "/a"}}, {"data": {"path": "/b"}}, None),  # every machine may have its own copy
    ({"seed": 1}, {"seed": 2}, "rank 1 differs from rank 0 in seed: 2, rank 0 has 1"),
    (
        {"data": {"sha256": {"train": "aa"}, "rows": 3}, "seed": 1},
        {"data": {"sha256": {"train": "bb"}, "rows": 4}, "seed": 1},
        "rank 1 differs from rank 0 in data.rows: 4, rank 0 has 3",
    ),
    ({"a": "x" * 99}, {"a": "y"}, f'rank 1 differs from rank 0 in a: "y", rank 0 has "{"x" * 36}...'),
    ({"a": 1}, {"a": 1, "b": {"c": 2}}, "rank 1 differs from rank 0 in b.c: 2, rank 0 has nothing"),
    ({"batches": 5}, {}, "rank 1 differs from rank 0 in batches: nothing, rank 0 has 5"),
]


@pytest.mark.slow
def test_two_processes_say_alike_what_differs(tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps([case[:2] for case in CASES]))
    script = Path(__file__).with_name("agreement_script.py")
    outputs = [tmp_path / f"{rank}.json" for rank in (0, 1)]
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), tmp_path / "rendezvous", facts, outputs[rank]])
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    expected = [None if case[2] is None else f"EveryRankError: {case[2]}{WAY_OUT}" for case in CASES]
    assert [json.loads(output.read_text()) for output in outputs] == [expected, expected]


def test_one_process_agrees_with_itself() -> None:
    check_agreement({"anything": 1}, torch.device("cpu"))
    assert issubclass(EveryRankError, ValueError)


def facts_of(model: LlamaForCausalLM, seed: int = 0, **fields: Any) -> dict[str, Any]:
    torch.manual_seed(seed)
    adapter = inject(model, AdapterConfig(**({"targets": ["q_proj"], "rank": 2} | fields)))
    facts = adapter_facts(adapter)
    adapter.remove()
    return facts


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({}, set()),
        ({"seed": 1}, {"values"}),
        ({"rank": 4}, {"config", "shapes", "values"}),
        ({"alpha": 3.0}, {"config"}),
    ],
)
def test_an_adapters_facts_show_what_differs(llama: LlamaForCausalLM, change: dict[str, Any], names: set[str]) -> None:
    one, other = facts_of(llama), facts_of(llama, **change)
    assert json.loads(json.dumps(one)) == one  # plain types
    assert {name for name in one if one[name] != other[name]} == names


def test_another_base_is_another_fact(llama: LlamaForCausalLM) -> None:
    one = facts_of(llama)
    with torch.no_grad():
        llama.model.norm.weight[0] += 1
    other = facts_of(llama)
    assert {name for name in one if one[name] != other[name]} == {"base"}
