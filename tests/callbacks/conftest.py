"""A small run's model."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import save_llama
from transformers import LlamaForCausalLM


@pytest.fixture
def folder(llama: LlamaForCausalLM, tmp_path: Path) -> Path:
    """The tiny Llama with a character tokenizer, as a Hugging Face folder."""
    return save_llama(llama, tmp_path / "llama")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The run folder."""
    path = tmp_path / "run"
    path.mkdir()
    return path
