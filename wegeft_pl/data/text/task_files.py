"""Finds the files of several tasks: the LLM-Adapters folders, one task's folder, or one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from wegeft_pl.data.rows import missing
from wegeft_pl.data.sources import Split, find_path
from wegeft_pl.data.text.instruction_rows import task_of_format

_ENDINGS = (".jsonl", ".json")


@dataclass
class TaskFiles:
    """What was found.

    Args:
        splits: task to its files by split.
        mix: a training file of several tasks, or None.
    """

    splits: dict[str, dict[Split, Path]] = field(default_factory=dict)
    mix: Path | None = None


def find_task_files(path: str, suite: Sequence[str], mix: str) -> TaskFiles:
    """Finds the files of the tasks under a path.

    Args:
        path: a checkout of LLM-Adapters (``dataset`` and ``ft-training_set`` in it); its ``dataset`` folder, with
            TASK/train.json and TASK/test.json; a folder with TASK.json, which are test files; one task's folder, whose
            files may have a name before ``_test``; or one file, which is a test file where its name ends in ``test``
            and the training file otherwise. Each may be .json or .jsonl.
        suite: the tasks' names.
        mix: the name of the suite's training file of several tasks, without ending.

    Returns:
        The files; each task has at least one.

    Raises:
        FileNotFoundError: there is no such path, or nothing of the suite in it.
        ValueError: a split has both a .json and a .jsonl file, or a lone test file does not say what it tests.
    """
    found = find_path(path)
    if found.is_file():
        return _lone_file(found, suite)
    mixes = [found / "ft-training_set" / mix, found / mix]
    files = TaskFiles(mix=next((file for file in map(_with_ending, mixes) if file is not None), None))
    folder = found / "dataset" if (found / "dataset").is_dir() else found
    for task in suite:
        splits = _split_files(folder / task)
        alone = _with_ending(folder / task)
        if alone is not None:
            splits.setdefault("test", alone)
        if splits:
            files.splits[task] = splits
    if not files.splits and files.mix is None:
        splits = _split_files(folder) or _suffixed_files(folder)
        if not splits:
            names = ", ".join(sorted(item.name for item in folder.iterdir())[:12]) or "nothing"
            raise FileNotFoundError(
                f"data.path: folder {folder} has no TASK/test.json, TASK.json or test.json of {', '.join(suite)}; "
                f"it has {names}"
            )
        files.splits[_task_of(folder.name, next(iter(splits.values())), suite)] = splits
    return files


def train_file(path: str, suite: Sequence[str]) -> tuple[str, Path]:
    """Finds a training file and the name that its rows' task gets: a task of the suite, or the file's own name.

    Raises:
        FileNotFoundError: there is no such file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"data.train_path: {missing(file)}")
    return _name_of(file, suite), file


def _lone_file(file: Path, suite: Sequence[str]) -> TaskFiles:
    if file.stem.endswith("test"):
        return TaskFiles({_task_of(file.parent.name, file, suite): {"test": file}})
    task = _name_of(file, suite)
    return TaskFiles({task: {"train": file}}) if task in suite else TaskFiles(mix=file)


def _task_of(name: str, file: Path, suite: Sequence[str]) -> str:
    task = _in_suite(name, suite) or task_of_format(file)
    if task is None or task not in suite:
        raise ValueError(
            f"{file} does not say which task it is of; put it into a folder named as one: {', '.join(suite)}"
        )
    return task


def _name_of(file: Path, suite: Sequence[str]) -> str:
    # In train.json the folder's name says more.
    name = file.parent.resolve().name if file.stem in get_args(Split) else file.stem
    # Scores get this name, and a dot in it would part it from the rest in a log.
    return _in_suite(name, suite) or task_of_format(file) or name.replace(".", "_")


def _in_suite(name: str, suite: Sequence[str]) -> str | None:
    return next((task for task in suite if task.lower() == name.lower()), None)


def _split_files(folder: Path) -> dict[Split, Path]:
    found = {split: _with_ending(folder / split) for split in get_args(Split)}
    return {split: file for split, file in found.items() if file is not None}


def _suffixed_files(folder: Path) -> dict[Split, Path]:
    """Files such as math500_test.jsonl, where a folder has one of a kind."""
    found: dict[Split, Path] = {}
    for split in get_args(Split):
        files = sorted(file for ending in _ENDINGS for file in folder.glob(f"*_{split}{ending}"))
        if len(files) > 1:
            raise ValueError(f"data.path: {folder} has both {files[0].name} and {files[1].name}; give one of the files")
        if files:
            found[split] = files[0]
    return found


def _with_ending(path: Path) -> Path | None:
    # Not with_suffix: a name may have a dot of its own.
    present = [file for ending in _ENDINGS if (file := path.with_name(path.name + ending)).is_file()]
    if len(present) > 1:
        raise ValueError(f"data.path: {path.parent} has both {present[0].name} and {present[1].name}; keep one")
    return present[0] if present else None
