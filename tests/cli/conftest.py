"""A folder with a recipe of the tiny task, and the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent

RECIPE = """\
# A tiny recipe for tests.
seed_everything: 7
trainer:
  max_steps: 2
  logger: false
  log_every_n_steps: 1
  enable_progress_bar: false
model:
  class_path: tiny_recipe.CausalLM
  init_args: {backbone: linear}
data:
  class_path: tiny_recipe.Ones
adapter:
  class_path: tiny_recipe.Injector
  init_args:
    targets: [q_proj]
"""


class Outcome:
    """What a call of the command line did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


Cli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _tiny_recipe_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder with my.yaml, the tiny recipe."""
    (tmp_path / "my.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "WEGEFT_PL_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    if "tiny_recipe" in sys.modules:
        sys.modules["tiny_recipe"].Witness.seen.clear()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs the command line in this process, without the default callbacks, which have tests of their own."""
    from wegeft_pl.cli import default_callbacks
    from wegeft_pl.cli.main import main

    only_listed = dict.fromkeys(default_callbacks.DEFAULT_CALLBACKS, (default_callbacks.RECIPE,))
    monkeypatch.setattr(default_callbacks, "DEFAULT_CALLBACKS", only_listed)

    def run(*argv: str) -> Outcome:
        capsys.readouterr()
        code = main(argv)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
