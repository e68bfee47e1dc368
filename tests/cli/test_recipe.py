"""Runs of the tiny recipe: sections, overrides, composition, the resolved recipe, what the trainer is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger

from wegeft_pl.cli import default_callbacks
from wegeft_pl.tasks import FineTuneTask


@pytest.fixture
def seen(folder: Path):
    """The trainer and task of the last run whose recipe lists the Witness callback."""
    import tiny_recipe

    return tiny_recipe.Witness.seen


WITNESS = ["--trainer.callbacks", "tiny_recipe.Witness"]


def test_fit_runs_and_writes_its_folder(cli, folder: Path) -> None:
    outcome = cli("fit", "--config", "my.yaml")
    assert (outcome.code, outcome.err) == (0, "")
    assert [path.name for path in (folder / "runs" / "my").iterdir()] == ["version_0"]
    assert (folder / "runs" / "my" / "version_0" / "config.yaml").is_file()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_the_other_commands_run(cli, folder: Path, command: str) -> None:
    assert cli(command, "--config", "my.yaml").code == 0


def test_overrides_in_the_short_form(cli, folder: Path, seen) -> None:
    outcome = cli(
        "fit", "--config", "my.yaml", *WITNESS, "--model.backbone", "other", "--data.path", "rows.jsonl",
        "--data.batch_size", "2", "--adapter.rank", "3", "--trainer.max_steps", "1", "--optimizer.lr", "1e-3",
        "--lr_scheduler", "LinearSchedule", "--lr_scheduler.warmup_steps", "5", "--seed_everything", "11",
    )  # fmt: skip
    assert outcome.code == 0
    trainer, task = seen[0]
    assert task.backbone_name == "other"
    assert task.adapter_config.rank == 3
    assert (trainer.datamodule.path, trainer.datamodule.batch_size) == ("rows.jsonl", 2)
    assert trainer.global_step == 1
    assert task.lr_scheduler.warmup_steps == 5
    assert trainer.optimizers[0].param_groups[0]["initial_lr"] == 1e-3


def test_the_default_optimizer_is_the_tasks(cli, folder: Path, seen) -> None:
    assert cli("fit", "--config", "my.yaml", *WITNESS).code == 0
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    ours = seen[0][1].optimizer(parameters)
    its_own = FineTuneTask().optimizer(parameters)
    assert type(ours) is type(its_own)
    assert ours.defaults == its_own.defaults


def test_a_null_optimizer_leaves_the_tasks(cli, folder: Path, seen) -> None:
    (folder / "over.yaml").write_text("optimizer: null\n")
    assert cli("fit", "--config", "my.yaml", "--config", "over.yaml", *WITNESS).code == 0
    assert seen[0][1].optimizer.keywords == FineTuneTask().optimizer.keywords


def test_later_recipes_win_and_swap_the_adapter(cli, folder: Path, seen) -> None:
    (folder / "over.yaml").write_text("adapter: {class_path: tiny_recipe.Lora, init_args: {rank: 2}}\n")
    (folder / "last.yaml").write_text("trainer: {max_steps: 1}\nadapter: {init_args: {dropout: 0.5}}\n")
    arguments = ["--config", "my.yaml", "--config", "over.yaml", "--config", "last.yaml"]
    assert cli("fit", *arguments, *WITNESS).code == 0
    trainer, task = seen[0]
    assert trainer.max_steps == 1
    assert task.adapter_config.rank == 2
    config = yaml.safe_load((folder / "runs/my/version_0/config.yaml").read_text())
    assert config["adapter"]["class_path"] == "tiny_recipe.Lora"
    assert config["adapter"]["init_args"] == {"targets": ["q_proj"], "rank": 2, "dropout": 0.5}


def test_options_win_wherever_they_stand(cli, folder: Path, seen) -> None:
    assert cli("fit", *WITNESS, "--adapter.rank", "3", "--trainer.max_steps=1", "--config", "my.yaml").code == 0
    assert seen[0][0].max_steps == 1


def test_smoke_composes_onto_a_recipe(cli, folder: Path, seen) -> None:
    arguments = ["--config", "my.yaml", "--config", "smoke", "--trainer.enable_progress_bar", "false"]
    assert cli("fit", *arguments, *WITNESS).code == 0
    trainer, _ = seen[0]
    assert (trainer.global_step, trainer.logger, trainer.num_val_batches) == (2, None, [2])


def test_the_resolved_recipe_is_a_recipe(cli, folder: Path) -> None:
    assert cli("fit", "--config", "my.yaml", "--adapter.rank", "5", "--run_dir", "one").code == 0
    assert cli("fit", "--config", "one/config.yaml", "--run_dir", "two").code == 0
    first, second = ((folder / name / "config.yaml").read_text() for name in ("one", "two"))
    assert first == second
    config = yaml.safe_load(first)
    assert config["adapter"]["init_args"]["rank"] == 5
    assert list(config) == ["seed_everything", "model", "data", "adapter", "optimizer", "lr_scheduler", "trainer"]


def test_print_config_prints_a_recipe(cli, folder: Path) -> None:
    printed = cli("fit", "--config", "my.yaml", "--adapter.rank", "5", "--run_dir", "x", "--print_config")
    assert printed.code == 0
    assert not (folder / "x").exists()
    (folder / "printed.yaml").write_text(printed.out)
    again = cli("fit", "--config", "printed.yaml", "--print_config")
    assert again.out == printed.out


def test_the_help_of_a_class(cli, folder: Path) -> None:
    outcome = cli("fit", "--adapter.help", "tiny_recipe.Injector")
    assert outcome.code == 0
    assert "--adapter.init_args.rank RANK" in outcome.out or "--adapter.rank RANK" in outcome.out


def test_a_shipped_recipe_by_its_bare_name_from_any_folder(cli, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("wegeft_pl.cli.names.shipped_folder", lambda: folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert cli("fit", "--config", "my").code == 0
    assert (elsewhere / "runs" / "my" / "version_0").is_dir()


def test_relative_paths_start_from_the_current_folder(cli, folder: Path, monkeypatch) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert cli("fit", "--config", "../my.yaml", "--run_dir", "here").code == 0
    assert (elsewhere / "here" / "config.yaml").is_file()


def test_the_logger_writes_into_the_run_folder(cli, folder: Path, seen) -> None:
    assert cli("fit", "--config", "my.yaml", "--run_dir", "run", "--trainer.logger", "true", *WITNESS).code == 0
    trainer, _ = seen[0]
    assert isinstance(trainer.logger, TensorBoardLogger)
    assert Path(trainer.logger.log_dir) == folder / "run" / "tensorboard"
    assert Path(trainer.default_root_dir) == folder / "run"


def test_no_checkpoint_callback_of_lightnings_own(cli, folder: Path, seen) -> None:
    assert cli("fit", "--config", "my.yaml", *WITNESS).code == 0
    assert not any(isinstance(callback, Checkpoint) for callback in seen[0][0].callbacks)


def test_adapter_path_is_loaded_before_the_run(cli, folder: Path, seen) -> None:
    (folder / "adapter").mkdir()
    assert cli("validate", "--config", "my.yaml", "--adapter_path", "adapter", *WITNESS).code == 0
    assert seen[0][1].loaded == [folder / "adapter"]
    outcome = cli("validate", "--config", "my.yaml", "--adapter_path", "nope")
    assert outcome.err == "wegeft_pl: no adapter folder 'nope'; give the adapter/ folder of a run\n"
    assert outcome.code == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["test"], True),
        (["test", "--adapter_path", "adapter"], False),
        (["test", "--adapter", "null"], False),
        (["fit"], False),
    ],
)
def test_scoring_a_new_adapter_is_told_of(cli, folder: Path, seen, arguments: list[str], told: bool) -> None:
    (folder / "adapter").mkdir()
    outcome = cli(arguments[0], "--config", "my.yaml", *arguments[1:], *WITNESS)
    assert outcome.code == 0
    assert (
        "the adapter is new, so this is the untouched base; a trained one needs --adapter_path" in outcome.out
    ) is told


def test_callbacks_that_a_run_cannot_have_are_left_out(cli, folder: Path, seen, monkeypatch) -> None:
    monkeypatch.setitem(default_callbacks.DEFAULT_CALLBACKS, "fit", default_callbacks._FIT)
    (folder / "over.yaml").write_text("trainer: {enable_checkpointing: false}\nadapter: null\n")
    assert cli("fit", "--config", "my.yaml", "--config", "over.yaml", *WITNESS).code == 0
    names = {type(callback).__name__ for callback in seen[0][0].callbacks}
    assert "RunReport" in names
    assert not names & {"AdapterCheckpoint", "AdapterSaver", "AdapterMonitor", "AdapterMerge"}


def test_lightnings_chatter_is_silent(cli, folder: Path) -> None:
    outcome = cli("fit", "--config", "my.yaml", "--trainer.logger", "true")
    assert not any(word in outcome.err + outcome.out for word in ("Tip", "GPU available", "num_workers"))


def test_defaults_are_added_in_the_order_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny_recipe

    table = {"fit": ("tiny_recipe.Before", default_callbacks.RECIPE, "tiny_recipe.After", "tiny_recipe.Last")}
    monkeypatch.setattr(default_callbacks, "DEFAULT_CALLBACKS", table)
    before, last, witness = tiny_recipe.Before, tiny_recipe.Last(), tiny_recipe.Witness()
    ordered = default_callbacks.with_defaults("fit", [last, witness])
    assert [type(one).__name__ for one in ordered] == ["Before", "Witness", "After", "Last"]
    assert ordered[1] is witness
    assert ordered[3] is last
    ordered = default_callbacks.with_defaults("fit", [before()], frozenset({"tiny_recipe.After", "tiny_recipe.Before"}))
    assert [type(one).__name__ for one in ordered] == ["Before", "Last"]


def test_the_default_callbacks_end_with_the_report() -> None:
    assert all(names[-1] == "wegeft_pl.callbacks.RunReport" for names in default_callbacks.DEFAULT_CALLBACKS.values())
    assert list(default_callbacks.DEFAULT_CALLBACKS) == ["fit", "validate", "test", "predict"]


def test_checkpoints_do_not_change_the_recipe(cli, folder: Path, seen) -> None:
    # Lightning's command line would take the model's settings from the checkpoint's hyper-parameters.
    saved = folder / "x.ckpt"
    assert cli("fit", "--config", "my.yaml", *WITNESS).code == 0
    seen[0][0].save_checkpoint(saved)
    state = torch.load(saved, weights_only=False)
    state["hyper_parameters"] = {"backbone": "other"}
    torch.save(state, saved)
    assert cli("validate", "--config", "my.yaml", "--ckpt_path", "x.ckpt", *WITNESS).code == 0
    assert seen[-1][1].backbone_name == "linear"
