"""Which folder a run writes: fresh, refused, continued, and the same one for every rank."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wegeft_pl.cli.failure import UsageError
from wegeft_pl.cli.run_folder import (
    choose_run_folder,
    is_first_rank,
    last_of_recipe,
    recipe_name,
    remove_if_unused,
    write_config,
)
from wegeft_pl.cli.share_folder import ShareRunFolder


def test_numbers_go_up(folder: Path) -> None:
    first = choose_run_folder("fit", None, None, "my", folder)
    second = choose_run_folder("fit", None, None, "my", folder)
    # Both chose before either created: the second takes the next number.
    assert first.create() == folder / "runs/my/version_0"
    assert second.create() == folder / "runs/my/version_1"


def test_an_existing_run_is_refused(cli, folder: Path) -> None:
    assert cli("fit", "--config", "my.yaml", "--run_dir", "run").code == 0
    before = (folder / "run" / "config.yaml").read_text()
    outcome = cli("fit", "--config", "my.yaml", "--run_dir", "run", "--adapter.rank", "1")
    assert outcome.code == 2
    assert outcome.err == (
        "wegeft_pl: run folder run already holds a run; choose another --run_dir or continue it with --ckpt_path last\n"
    )
    assert (folder / "run" / "config.yaml").read_text() == before


def test_a_run_that_did_nothing_leaves_no_folder(cli, folder: Path) -> None:
    arguments = ["fit", "--config", "my.yaml", "--run_dir", "run"]
    outcome = cli(*arguments, "--model.backbone", "fails")
    assert outcome.err == "wegeft_pl: the loss is nan; lower the learning rate\n"
    assert not (folder / "run").exists()
    assert cli(*arguments).code == 0


def test_a_run_that_failed_keeps_what_was_there(cli, folder: Path) -> None:
    assert cli("fit", "--config", "my.yaml", "--run_dir", "run").code == 0
    again = ["--run_dir", "run", "--ckpt_path", "last", "--model.backbone", "fails"]
    assert cli("fit", "--config", "my.yaml", *again).code == 1
    assert (folder / "run" / "config_before_1.yaml").is_file()


def test_results_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "run" / "predictions").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    remove_if_unused(tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").is_file()


def test_an_empty_folder_is_taken(folder: Path) -> None:
    (folder / "run").mkdir()
    assert choose_run_folder("fit", "run", None, "my", folder).create() == folder / "run"


def test_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"--run_dir my\.yaml is a file; give a folder"):
        choose_run_folder("fit", "my.yaml", None, "my", folder)


def _saved(run: Path) -> Path:
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    return run / "checkpoints" / "last.ckpt"


def test_last_goes_on_from_the_folder(folder: Path) -> None:
    saved = _saved(folder / "run")
    chosen = choose_run_folder("fit", "run", "last", "my", folder)
    assert (chosen.path, chosen.checkpoint, chosen.wants_newest) == (folder / "run", saved, True)
    assert chosen.create() == folder / "run"


def test_last_without_run_dir_takes_the_newest(folder: Path) -> None:
    _saved(folder / "runs/my/version_2")
    saved = _saved(folder / "runs/my/version_10")
    (folder / "runs/my/version_11").mkdir()  # a test run, which saves nothing
    assert choose_run_folder("fit", None, "last", "my", folder).checkpoint == saved


def test_a_run_killed_before_its_first_last_goes_on_from_what_it_has(folder: Path) -> None:
    saved = _saved(folder / "run")
    saved.rename(saved.with_name("epoch=0-step=2.ckpt"))
    chosen = choose_run_folder("fit", "run", "last", "my", folder)
    assert (chosen.checkpoint, chosen.wants_newest) == (saved, True)
    # What a kill leaves of a first write is none.
    saved.with_name("epoch=0-step=2.ckpt").rename(saved.with_name(".epoch=0-step=2.ckpt.tmp"))
    assert choose_run_folder("fit", "run", "last", "my", folder).checkpoint is None


def test_a_truncated_last_gives_way_and_it_is_said(cli, folder: Path) -> None:
    saving = [
        "--trainer.callbacks",
        "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {save_last: true}}",
    ]
    arguments = ["fit", "--config", "my.yaml", "--run_dir", "run", *saving]
    assert cli(*arguments, "--trainer.callbacks.dirpath", "run/checkpoints").code == 0
    last = folder / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-500])
    outcome = cli(*arguments, "--trainer.callbacks.dirpath", "run/checkpoints", "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err
    assert (
        "run/checkpoints/last.ckpt is truncated or no checkpoint (BadZipFile): going on from run/checkpoints/"
        in outcome.out
    )


def test_tensorboard_shows_no_step_twice(cli, folder: Path) -> None:
    options = "{save_top_k: -1}"
    saving = f"{{class_path: wegeft_pl.callbacks.AdapterCheckpoint, init_args: {options}}}"
    arguments = ["fit", "--config", "my.yaml", "--run_dir", "run", "--trainer.callbacks", saving]
    arguments += ["--trainer.logger", "true", "--trainer.max_steps", "8"]
    assert cli(*arguments).code == 0
    # As after a kill: steps 5 to 8 were logged and are not in the checkpoint.
    outcome = cli(*arguments, "--ckpt_path", "run/checkpoints/epoch=1-step=4.ckpt")
    assert outcome.code == 0, outcome.err
    events = EventAccumulator(str(folder / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("val/loss")] == [1, 3, 5, 7]
    assert len(list((folder / "run" / "tensorboard").glob("events*"))) == 2


def test_last_beside_a_runs_own_recipe_means_that_run(folder: Path) -> None:
    saved = _saved(folder / "run")
    recipe = [folder / "run" / "config.yaml"]
    assert last_of_recipe("fit", None, "last", recipe) == (str(folder / "run"), "last")
    assert last_of_recipe("test", None, "last", recipe) == (None, str(saved))
    assert last_of_recipe("test", "other", "last", recipe) == ("other", "last")
    assert last_of_recipe("test", None, "last", [folder / "my.yaml"]) == (None, "last")


def test_last_starts_from_the_start_where_nothing_is_saved(cli, folder: Path) -> None:
    outcome = cli("fit", "--config", "my.yaml", "--run_dir", "run", "--ckpt_path", "last")
    assert outcome.code == 0
    assert outcome.out.startswith("no checkpoint saved in run yet: starting from the start\n")
    assert cli("fit", "--config", "my.yaml", "--run_dir", "run", "--ckpt_path", "last").code == 0
    assert cli("fit", "--config", "my.yaml", "--ckpt_path", "last").code == 0
    assert (folder / "runs/my/version_0").is_dir()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("adapter/adapter.safetensors", ""),
        ("merged/model.safetensors", ""),
        ("predictions/val.jsonl", ""),
        ("run.json", '{"command": "fit"}'),
        ("run.json", '{"error": "ValueError: nan", "metrics": {"before": {}, "val": {}}}'),
        ("run.json", "cut off"),
        ("notes.txt", ""),
    ],
)
def test_last_never_starts_over_on_results(folder: Path, name: str, text: str) -> None:
    result = folder / "run" / name
    result.parent.mkdir(parents=True)
    (folder / "run" / "config.yaml").touch()
    result.write_text(text)
    with pytest.raises(UsageError, match=rf"run has no checkpoints/last.ckpt .* overwrite its {name}; choose another"):
        choose_run_folder("fit", "run", "last", "my", folder)


def test_last_starts_over_on_bookkeeping(folder: Path) -> None:
    run = folder / "run"
    for name in ("adapter", "checkpoints", "tensorboard", "predictions", ".merged.tmp"):
        (run / name).mkdir(parents=True)
    for name in ("config.yaml", "config_before_1.yaml", "tensorboard/events", "predictions/before.jsonl"):
        (run / name).touch()
    for name in ("predictions/.val.jsonl.rank0", ".merged.tmp/model.safetensors"):
        (run / name).touch()
    (run / "run.json").write_text('{"error": "SIGTERMException: ", "metrics": {"before": {"loss": 1.0}}}')
    chosen = choose_run_folder("fit", "run", "last", "my", folder)
    assert (chosen.path, chosen.checkpoint) == (run, None)


def test_a_finished_run_without_checkpoints_is_not_started_over(cli, folder: Path) -> None:
    arguments = ["fit", "--config", "my.yaml", "--run_dir", "run"]
    assert cli(*arguments).code == 0
    (folder / "run" / "adapter").mkdir()
    (folder / "run" / "adapter" / "adapter.safetensors").write_text("trained")
    outcome = cli(*arguments, "--ckpt_path", "last")
    assert (outcome.code, outcome.err) == (
        2,
        "wegeft_pl: --ckpt_path last: run folder run has no checkpoints/last.ckpt to go on from, and starting over "
        "would overwrite its adapter/adapter.safetensors; choose another --run_dir\n",
    )
    assert (folder / "run" / "adapter" / "adapter.safetensors").read_text() == "trained"


def test_last_needs_a_checkpoint_outside_fit(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"last: no checkpoints/last.ckpt in any run of runs/my; give --run_dir DIR"):
        choose_run_folder("test", None, "last", "my", folder)
    with pytest.raises(UsageError, match=r"last: no checkpoints/last.ckpt in run; give --run_dir DIR or a file"):
        choose_run_folder("test", "run", "last", "my", folder)


def test_a_checkpoint_of_the_folder_continues_it(folder: Path) -> None:
    saved = _saved(folder / "run")
    assert choose_run_folder("fit", "run", str(saved), "my", folder).checkpoint == saved
    other = _saved(folder / "other")
    with pytest.raises(UsageError, match="already holds a run"):
        choose_run_folder("fit", "run", str(other), "my", folder)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"])
def test_other_ranks_create_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert is_first_rank()
    monkeypatch.setenv(name, "1")
    assert not is_first_rank()
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").touch()
    assert choose_run_folder("fit", "run", None, "my", folder).create() == folder / "run"
    choose_run_folder("fit", None, None, "my", folder).create()
    assert not (folder / "runs").exists()


def test_every_rank_gets_the_folder_of_the_first() -> None:
    sent: list[str] = []
    strategy = SimpleNamespace(broadcast=lambda path: sent.append(path) or "/runs/of/rank0")
    trainer = SimpleNamespace(default_root_dir="/runs/of/rank1", strategy=strategy)
    ShareRunFolder().setup(trainer, None, "fit")  # type: ignore[arg-type]
    assert (sent, trainer._default_root_dir) == (["/runs/of/rank1"], "/runs/of/rank0")


def test_configs_of_earlier_runs_are_kept(tmp_path: Path) -> None:
    write_config(tmp_path, "fit", "a: 1\n")
    write_config(tmp_path, "fit", "a: 1\n")
    write_config(tmp_path, "fit", "a: 2\n")
    write_config(tmp_path, "test", "a: 3\n")
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"config.yaml": "a: 2\n", "config_before_1.yaml": "a: 1\n", "config_test.yaml": "a: 3\n"}


def test_runs_are_named_after_the_first_recipe() -> None:
    assert recipe_name([]) == "run"
    assert recipe_name([Path("a.yaml"), Path("b.yaml")]) == "a"
    assert recipe_name([Path("/x/my_run/config.yaml")]) == "my_run"
