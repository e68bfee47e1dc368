"""The folder of one run: which one, whether it may be used, and the resolved recipe in it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wegeft_pl.cli.failure import UsageError
from wegeft_pl.cli.folder_lock import NAME as LOCK
from wegeft_pl.cli.results import result_in
from wegeft_pl.cli.source import shown

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK")
#: What a run writes before it has a result.
_BOOKKEEPING = {"config.yaml", "run.json", "tensorboard", ".first_cause.json", LOCK}
_VERSION = re.compile(r"version_(\d+)")


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes and what it goes on from.

    Args:
        path: the folder; for a new default folder the name that was free when it was chosen.
        checkpoint: the checkpoint to load, None to start from the start; for ``last`` that name, also where the file is
            missing and another one of its folder is to be taken.
        wants_newest: whether any good checkpoint beside ``checkpoint`` will do.
        is_default: whether the folder got its name from us, so that the next number may be taken instead.
        note: a line to print, None if there is nothing to say.
    """

    path: Path
    checkpoint: Path | None = None
    wants_newest: bool = False
    is_default: bool = False
    note: str | None = None

    def create(self) -> Path:
        """Makes the folder on the first rank and returns its path.

        Other ranks get the path without creating anything; they learn the first rank's choice when the processes are
        connected (:class:`wegeft_pl.cli.share_folder.ShareRunFolder`).
        """
        if not is_first_rank():
            return self.path
        path = self.path
        while self.is_default:
            try:
                path.mkdir(parents=True)
            except FileExistsError:  # another run took this number in the meantime
                path = _next_version(path.parent)
            else:
                return path
        path.mkdir(parents=True, exist_ok=True)
        return path


def is_first_rank() -> bool:
    """Tells whether this process is rank 0 by the variables that torchrun, SLURM and Lightning set."""
    return all(os.environ.get(name, "0") == "0" for name in _RANK_VARIABLES)


def recipe_name(recipes: Sequence[Path]) -> str:
    """Returns the name of a run: its first recipe's, or for the config.yaml of an earlier run that run's.

    >>> recipe_name([Path("llama_gsm8k.yaml"), Path("smoke.yaml")])
    'llama_gsm8k'
    >>> recipe_name([Path("/home/me/runs/llama_gsm8k/version_3/config.yaml")])
    'llama_gsm8k'
    """
    if not recipes:
        return "run"
    first = recipes[0]
    if first.name == "config.yaml":
        folder = first.absolute().parent
        return folder.parent.name if _VERSION.fullmatch(folder.name) else folder.name
    return first.stem


def choose_run_folder(command: str, run_dir: str | None, ckpt_path: str | None, name: str, start: Path) -> RunFolder:
    """Decides where a run writes and which checkpoint it loads, before anything expensive happens.

    Args:
        command: fit, validate, test or predict.
        run_dir: the folder the user asked for; None for the next free ``runs/NAME/version_N``.
        ckpt_path: a checkpoint file or folder, ``last`` for the newest one of the run folder, None for none.
        name: the recipe's name.
        start: the folder that relative paths start from.

    Returns:
        The folder, not yet created.

    Raises:
        UsageError: if the folder holds a run that is not to be continued, or the checkpoint does not exist.
    """
    runs = start / "runs" / name
    asked = None if run_dir is None else (start / Path(run_dir).expanduser()).absolute()
    if asked is not None and asked.exists() and not asked.is_dir():
        raise UsageError(f"--run_dir {run_dir} is a file; give a folder")
    if ckpt_path == "last":
        return _continue_last(command, asked, runs)
    checkpoint = None
    if ckpt_path is not None:
        checkpoint = (start / Path(ckpt_path).expanduser()).absolute()
        if not checkpoint.exists():
            raise UsageError(f"no checkpoint {ckpt_path!r}; give a file, or 'last' for the newest one of --run_dir")
    if asked is None:
        return RunFolder(_next_version(runs), checkpoint, is_default=True)
    continues = checkpoint is not None and checkpoint.is_relative_to(asked)
    if is_first_rank() and not continues and asked.is_dir() and any(path.name != LOCK for path in asked.iterdir()):
        raise UsageError(
            f"run folder {shown(asked)} already holds a run; "
            "choose another --run_dir or continue it with --ckpt_path last"
        )
    return RunFolder(asked, checkpoint)


def last_of_recipe(
    command: str, run_dir: str | None, ckpt_path: str | None, recipes: Sequence[Path]
) -> tuple[str | None, str | None]:
    """Reads ``--ckpt_path last`` beside a run's own config.yaml as the last checkpoint of that run.

    Returns:
        ``run_dir`` and ``ckpt_path``, with the run's folder to go on in (fit) or its checkpoint to score filled in.
    """
    if ckpt_path != "last" or run_dir is not None or not recipes or recipes[0].name != "config.yaml":
        return run_dir, ckpt_path
    folder = recipes[0].absolute().parent
    if not _has_saved(folder):
        return run_dir, ckpt_path
    return (str(folder), ckpt_path) if command == "fit" else (run_dir, str(_last(folder)))


def _continue_last(command: str, asked: Path | None, runs: Path) -> RunFolder:
    folder = asked if asked is not None else _newest_saved(runs)
    if folder is not None and _has_saved(folder):
        return RunFolder(folder, _last(folder), wants_newest=True)
    if command != "fit":
        place = shown(asked) if asked is not None else f"any run of {shown(runs)}"
        raise UsageError(f"--ckpt_path last: no checkpoints/last.ckpt in {place}; give --run_dir DIR or a file")
    result = result_in(asked) if asked is not None and is_first_rank() else None
    if asked is not None and result is not None:
        raise UsageError(
            f"--ckpt_path last: run folder {shown(asked)} has no checkpoints/last.ckpt to go on from, and starting "
            f"over would overwrite its {result}; choose another --run_dir"
        )
    note = f"no checkpoint saved in {shown(asked if asked is not None else runs)} yet: starting from the start"
    if asked is not None:
        return RunFolder(asked, note=note)
    return RunFolder(_next_version(runs), is_default=True, note=note)


def _last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def _has_saved(folder: Path) -> bool:
    """Tells whether a run has a checkpoint; one killed behind its first write may have no last.ckpt yet."""
    return any((folder / "checkpoints").glob("*.ckpt"))


def remove_if_unused(folder: Path) -> None:
    """Removes the folder of a run that ended before it did anything, so that its name can be used again.

    Args:
        folder: a folder that was new at the start of this run. It stays if it holds more than bookkeeping.
    """
    if is_first_rank() and folder.is_dir() and {path.name for path in folder.iterdir()} <= _BOOKKEEPING:
        shutil.rmtree(folder)


def _versions(runs: Path) -> dict[int, Path]:
    if not runs.is_dir():
        return {}
    matches = {path: _VERSION.fullmatch(path.name) for path in runs.iterdir()}
    return {int(match[1]): path for path, match in matches.items() if match}


def _next_version(runs: Path) -> Path:
    return runs / f"version_{max(_versions(runs), default=-1) + 1}"


def _newest_saved(runs: Path) -> Path | None:
    """Returns the newest run that saved a checkpoint; scoring runs, which save none, lie between them."""
    saved = {number: path for number, path in _versions(runs).items() if _has_saved(path)}
    return saved[max(saved)] if saved else None


def write_config(folder: Path, command: str, text: str) -> Path:
    """Writes the resolved recipe of a run, never over that of another one.

    Args:
        folder: the run folder.
        command: a fit writes ``config.yaml`` and keeps an earlier, different one as ``config_before_N.yaml``; the
            other commands write ``config_COMMAND.yaml`` if the folder has a fit's config.yaml.
        text: the recipe as YAML.

    Returns:
        The path of the file written.
    """
    path = folder / "config.yaml"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        if command == "fit":
            number = 1
            while (kept := folder / f"config_before_{number}.yaml").exists():
                number += 1
            path.rename(kept)
        else:
            path = folder / f"config_{command}.yaml"
    path.write_text(text, encoding="utf-8")
    return path
