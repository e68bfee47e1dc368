"""The recipes that come with the package: every one parses, and one runs with everything a real run has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from cli.tiny_parts import tiny_parts

from wegeft_pl.cli.main import main
from wegeft_pl.cli.names import shipped_recipes
from wegeft_pl.cli.plan import PlanCLI
from wegeft_pl.cli.source import read_source

OVERLAYS = [name for name, path in shipped_recipes().items() if not read_source(path).has(["model"])]
RECIPES = [name for name in shipped_recipes() if name not in OVERLAYS]


def recipes_for(overlay: str) -> list[str]:
    """The recipes that an overlay's first line names, else the first of each kind of model; and one other.

    Every overlay on every recipe would be hundreds of the same parse.
    """
    first_line = shipped_recipes()[overlay].read_text(encoding="utf-8").partition("\n")[0]
    words = re.findall(r"\w+", first_line)
    kinds = {yaml.safe_load(shipped_recipes()[name].read_text())["model"]["class_path"]: name for name in RECIPES[::-1]}
    meant = [name for name in RECIPES if name.removesuffix(".yaml") in words] or sorted(kinds.values())
    return [*meant, next(name for name in RECIPES if name not in meant)]


@pytest.fixture
def parsed(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PlanCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(PlanCLI, "after_instantiate_classes", lambda self: None)
    return lambda *names: PlanCLI([part for name in names for part in ("--config", name)]).config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_parses(parsed, name: str) -> None:
    assert parsed(name).adapter is not None


@pytest.mark.parametrize(
    ("overlay", "name"), [(overlay, name) for overlay in OVERLAYS for name in recipes_for(overlay)]
)
def test_every_overlay_composes(parsed, name: str, overlay: str) -> None:
    config = parsed(name, overlay)
    assert config.model == parsed(name).model


def test_smoke_takes_two_steps_without_a_logger(parsed) -> None:
    trainer = parsed(RECIPES[0], "smoke").trainer
    assert (trainer.max_steps, trainer.logger, trainer.callbacks) == (2, False, [])


@pytest.mark.slow
def test_the_headline_recipe_runs_resumes_and_scores_on_real_data(
    folder: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--config", "llama_gsm8k", "--config", "smoke", "--run_dir", "run", "--model.dtype", "float32",
        "--trainer.precision", "32-true", "--model.max_new_tokens", "4", "--data.eval_batch_size", "2",
        "--model.backbone", str(shared / "weights" / "stories260K"), "--data.path", str(shared / "data/text/gsm8k"),
        "--trainer.enable_progress_bar", "false",
    ]  # fmt: skip
    assert main(["fit", *arguments]) == 0, capsys.readouterr().err
    written = {path.name for path in (folder / "run").iterdir()}
    assert written >= {"config.yaml", "run.json", "adapter", "checkpoints", "merged"}
    assert main(["fit", *arguments]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["fit", *arguments, "--ckpt_path", "last", "--trainer.max_steps", "3"]) == 0, capsys.readouterr().err
    scoring = ["--config", "run/config.yaml", "--adapter_path", "run/adapter", "--run_dir", "scores"]
    assert main(["test", *scoring]) == 0, capsys.readouterr().err
    assert "metrics" in json.loads((folder / "scores" / "run.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_on_tiny_parts(
    folder: Path, llama_folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (folder / "data").mkdir()
    arguments = [
        "--config", name, "--config", "smoke", "--run_dir", "run", "--data.batch_size", "2", "--model.dtype", "float32",
        "--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.devices", "1",
        "--trainer.enable_progress_bar", "false", *tiny_parts(shipped_recipes()[name], folder / "data", llama_folder),
    ]  # fmt: skip
    try:
        assert main(["fit", *arguments]) == 0, capsys.readouterr().err
    finally:
        if torch.distributed.is_initialized():  # a sharded recipe, here over one process
            torch.distributed.destroy_process_group()
    assert (folder / "run" / "adapter" / "adapter.safetensors").is_file()
    assert (folder / "run" / "merged" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_quickstart_keeps_its_promise(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole of it, as a person types it: at most 20 % before, at least 80 % after, by the generators alone."""
    assert main(["fit", "--config", "quickstart.yaml"]) == 0, capsys.readouterr().err
    run = json.loads((folder / "runs" / "quickstart" / "version_0" / "run.json").read_text())
    assert run["metrics"]["before"]["exact_match"] <= 0.2
    assert run["metrics"]["after"]["exact_match"] >= 0.8
    assert run["parameters"]["head"] == 0
    assert run["merge"]["max_output_difference"] < 1e-3
