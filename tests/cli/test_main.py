"""Commands, exit codes, and errors that a run raises."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from wegeft_pl.cli.commands import COMMANDS, OWN_COMMANDS, module_of
from wegeft_pl.version import __version__


def test_help_names_every_command(cli) -> None:
    outcome = cli("--help")
    assert outcome.code == 0
    assert all(f"\n  {name} " in outcome.out for name in COMMANDS)
    bare = cli()
    assert (bare.code, bare.out) == (2, outcome.out)


def test_version(cli) -> None:
    assert cli("--version").out == f"wegeft_pl {__version__}\n"


def test_unknown_commands(cli) -> None:
    outcome = cli("fti")
    assert (outcome.code, outcome.err) == (2, "wegeft_pl: no command 'fti'; did you mean 'fit'?\n")
    assert cli("zzz").err == f"wegeft_pl: no command 'zzz'; the commands are {', '.join(COMMANDS)}\n"


def test_an_uninstalled_checkout_says_what_to_do(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = cli("fit", "--config", "quickstart.yaml")
    assert outcome.code == 2
    assert outcome.err == (
        "wegeft_pl: this checkout is not installed (no wegeft_pl.callbacks); run: pip install -e .\n"
    )
    assert cli("configs", "ls").code == 0


@pytest.mark.parametrize("command", ["fit", "validate", "plan"])
def test_every_recipe_command_has_help(cli, command: str) -> None:
    outcome = cli(command, "--help")
    assert outcome.code == 0
    assert f"usage: wegeft_pl {command}" in outcome.out
    assert COMMANDS[command] in outcome.out.replace("\n", " ")


def test_fit_without_a_recipe(cli, folder: Path) -> None:
    outcome = cli("fit")
    assert outcome.code == 2
    assert outcome.err.startswith("wegeft_pl: no 'model' section and no 'data' section; name a recipe with --config")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.backbone", "nowhere"], "no backbone 'nowhere'; name a folder"),
        (["--data.path", "absent"], "no data in 'absent'; give --data.path FILE"),
        (["--trainer.accelerator", "nonsense"], "You selected an invalid accelerator name"),
    ],
)
def test_run_errors_are_short(cli, folder: Path, arguments: list[str], message: str) -> None:
    outcome = cli("fit", "--config", "my.yaml", *arguments)
    assert outcome.code == 1
    assert outcome.err.startswith(f"wegeft_pl: {message}")
    assert "Traceback" not in outcome.err
    assert not (folder / "runs" / "my" / "version_0").exists()


def test_long_messages_are_shortened(cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: str, arguments: list[str]) -> int:
        raise OSError("one\ntwo\n\nthree\nfour")

    monkeypatch.setattr("wegeft_pl.cli.main._run_recipe", fail)
    outcome = cli("fit")
    assert outcome.code == 1
    assert outcome.err == "wegeft_pl: one\n  two\n  (shortened; WEGEFT_PL_TRACEBACK=1 shows all of it)\n"


def test_long_lines_are_cut(cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: str, arguments: list[str]) -> int:
        raise OSError("x" * 3000)

    monkeypatch.setattr("wegeft_pl.cli.main._run_recipe", fail)
    line, hint = cli("fit").err.splitlines()
    assert line == "wegeft_pl: " + "x" * 497 + "..."
    assert hint == "  (shortened; WEGEFT_PL_TRACEBACK=1 shows all of it)"


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 0)])
def test_ends_that_say_nothing(cli, monkeypatch: pytest.MonkeyPatch, raised: type[BaseException], code: int) -> None:
    def fail(argv: list[str]) -> int:
        raise raised

    monkeypatch.setattr("wegeft_pl.cli.configs.main", fail)
    outcome = cli("configs", "ls")
    assert (outcome.code, outcome.err) == (code, "")


def test_every_own_command_lives_in_the_file_of_its_name() -> None:
    for name in OWN_COMMANDS:
        assert callable(importlib.import_module(f"wegeft_pl.cli.{module_of(name)}").main)


def test_the_traceback_of_a_run_error_on_request(cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEGEFT_PL_TRACEBACK", "1")
    outcome = cli("fit", "--config", "my.yaml", "--model.backbone", "nowhere")
    assert "Traceback" in outcome.err
    assert outcome.err.endswith("wegeft_pl: no backbone 'nowhere'; name a folder\n")


def test_a_bug_keeps_its_traceback(cli, folder: Path) -> None:
    with pytest.raises(KeyError, match="a bug of ours"):
        cli("fit", "--config", "my.yaml", "--model.backbone", "bug")


def test_ctrl_c_exits_130_quietly(cli, folder: Path) -> None:
    import signal

    handler = signal.getsignal(signal.SIGINT)
    try:
        outcome = cli("fit", "--config", "my.yaml", "--model.backbone", "interrupt")
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores further Ctrl-C while it shuts down
    assert outcome.code == 130
    assert "Traceback" not in outcome.err


def test_merge_and_export_are_dispatched(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("merge", "export"):
        module = ModuleType(f"wegeft_pl.cli.{name}")
        vars(module)["main"] = len
        monkeypatch.setitem(sys.modules, module.__name__, module)
        assert cli(name, "a", "b").code == 2


def test_plan_makes_only_task_and_adapter(cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr("wegeft_pl.cli.plan.run_plan", lambda *arguments, as_json: calls.append((*arguments, as_json)))
    monkeypatch.chdir(folder)
    arguments = ["--data.path", "absent", "--trainer.accelerator", "cuda", "--trainer.devices", "8"]
    assert cli("plan", "--config", "my.yaml", "--adapter.rank", "3", "--json", *arguments).code == 0
    task, adapter, data, trainer, as_json = calls[0]
    assert type(task).__name__ == "CausalLM"
    assert adapter.config().rank == 3  # type: ignore[attr-defined]
    assert data == {"class_path": "tiny_recipe.Ones", "init_args": {"path": "absent", "batch_size": 4}}
    assert trainer["devices"] in (8, "8")  # type: ignore[index]
    assert as_json is True
    assert not (folder / "runs").exists()
