"""A task on the tiny Llama."""

from __future__ import annotations

from pathlib import Path

import pytest
from tasks.tiny_task import make_task

from wegeft_pl.tasks import CausalLMTask


@pytest.fixture
def task(llama_folder: Path) -> CausalLMTask:
    """A task with a rank-4 adapter, not yet built."""
    return make_task(llama_folder)
