"""What the README shows runs as it stands."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from wegeft_pl.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]


def test_ci_runs_the_readmes_test_command() -> None:
    line = 'python -m pip install -e ".[dev]" && python -m pytest'
    assert line in README
    assert line in (ROOT / ".ci" / "run").read_text()


def test_every_command_exists_and_every_recipe_ships() -> None:
    ours = [words for words in commands() if words[:3] == ["python", "-m", "wegeft_pl"]]
    assert len(ours) > 8
    for words in ours:
        assert words[3] in COMMANDS, words
        for name, value in itertools.pairwise(words):
            if name == "--config" and "/" not in value:
                assert (ROOT / "configs" / value).is_file(), value


def test_every_recipe_is_in_the_readme() -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        assert path.name in README, path.name


def test_the_tree_names_every_room() -> None:
    for path in (ROOT / "wegeft_pl").glob("*/__init__.py"):
        assert f" {path.parent.name}/ " in README, path.parent.name


def test_the_research_example_is_short_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    research = blocks("python")[0]
    body = research[research.index("class MyTask") : research.index("data = ")]
    assert len(body.strip().splitlines()) < 20
    monkeypatch.chdir(tmp_path)
    exec(compile(research, "README.md", "exec"), {"__name__": "readme"})
    assert "trainable" in capsys.readouterr().out


def test_the_core_example_runs(llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[1], "README.md", "exec"), {"model": llama})
    assert (tmp_path / "lora" / "adapter_model.safetensors").is_file()
