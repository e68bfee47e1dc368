"""Precisions under which adapters do not learn are refused, or warned about, from a recipe too."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_16_true_is_refused(cli, folder: Path) -> None:  # type: ignore[no-untyped-def]
    outcome = cli("fit", "--config", "my.yaml", "--trainer.accelerator", "cpu", "--trainer.precision", "16-true")
    assert outcome.code == 1
    assert "precision 16-true makes training diverge; use bf16-mixed" in outcome.err
    assert "Traceback" not in outcome.err


def test_bf16_true_warns(cli, folder: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.warns(UserWarning, match="bf16-true rounds adapters to bfloat16, .* model.dtype bfloat16 for the same"):
        cli("fit", "--config", "my.yaml", "--trainer.accelerator", "cpu", "--trainer.precision", "bf16-true")


def test_16_mixed_on_a_cpu_says_that_it_becomes_bf16_mixed(cli, folder: Path) -> None:  # type: ignore[no-untyped-def]
    # Lightning's own line; LIGHTNING.md found versions that were silent.
    with pytest.warns(
        UserWarning, match=r"AMP with fp16 is not supported on CPU. Using `precision='bf16-mixed'` instead"
    ):
        cli("fit", "--config", "my.yaml", "--trainer.accelerator", "cpu", "--trainer.precision", "16-mixed")
