"""Saved adapters joined by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.adapter import SavedAdapter
from wegeft_pl.cli.main import main


@pytest.fixture
def two(llama: LlamaForCausalLM, tmp_path: Path) -> list[str]:
    """--adapter a --adapter b, of one base, with ranks 3 and 2."""
    for name, rank in (("a", 3), ("b", 2)):
        adapter = inject(llama, AdapterConfig(["q_proj"], rank=rank))
        for _, parameter in adapter.named_parameters():
            torch.nn.init.normal_(parameter)
        adapter.save(tmp_path / name)
        adapter.remove()
    return ["--adapter", str(tmp_path / "a"), "--adapter", str(tmp_path / "b")]


def edit(folder: Path) -> torch.Tensor:
    saved = SavedAdapter.read(folder)
    factors = saved.groups["q_proj"]
    return torch.eye(16, dtype=torch.float64) + saved.config.scale * factors.phi @ factors.psi


def test_the_second_on_the_first(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compose", *two, "--output", str(tmp_path / "c")]) == 0
    assert capsys.readouterr().out == f"rank 5, the second on the first's merged weights: {tmp_path / 'c'}\n"
    expected = edit(tmp_path / "a") @ edit(tmp_path / "b")
    torch.testing.assert_close(edit(tmp_path / "c"), expected, rtol=1e-5, atol=1e-5)


def test_weights_and_rank(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compose", *two, "--output", str(tmp_path / "c"), "--weights", "0.5", "-1", "--rank", "4"]
    assert main([*arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    one = torch.eye(16, dtype=torch.float64)
    wanted = 0.5 * (edit(tmp_path / "a") - one) - (edit(tmp_path / "b") - one)
    error = edit(tmp_path / "c") - one - wanted
    assert facts["rank"] == 4
    assert facts["lost"]["q_proj"]["frobenius"] == pytest.approx(float(error.norm()), rel=1e-4)
    again = ["compose", *two, "--output", str(tmp_path / "d"), "--rank", "4"]
    assert main(again) == 0
    assert "q_proj: lost " in capsys.readouterr().out


def test_problems(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "c")]
    for arguments, code, text in (
        ([*two[:2], *output], 2, "compose joins two adapters, got 1; give --adapter twice, first one first"),
        ([*two, *output, "--rank", "9"], 1, "rank must be an integer from 1 to the adapter's 5, got 9"),
        ([*two, "--output", str(tmp_path)], 1, "exists and is not empty; choose another --output"),
    ):
        assert main(["compose", *arguments]) == code
        assert text in capsys.readouterr().err
