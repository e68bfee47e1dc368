"""Runs of the command line that are killed by SIGKILL at any moment and resumed, compared with one that never was.

python kill_driver.py FOLDER SEED RUNS, with tests/ on PYTHONPATH: imports everything once, forks one child per attempt,
writes FOLDER/result.json.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file
from small_run import save_llama
from transformers import LlamaConfig, LlamaForCausalLM

from wegeft_pl.callbacks import checkpoint_io
from wegeft_pl.cli.main import main

#: 18 rows, two a batch, two batches a step: 9 batches and 5 steps an epoch, the last step of one batch.
RECIPE = """\
seed_everything: 7
trainer:
  max_epochs: 3
  accumulate_grad_batches: 2
  val_check_interval: 4
  num_sanity_val_steps: 0
  log_every_n_steps: 1
  logger: false
  accelerator: cpu
  enable_progress_bar: false
  callbacks:
  - class_path: kill_driver.Recorder
    init_args: {file: recorded.txt}
  - class_path: wegeft_pl.callbacks.AdapterCheckpoint
    init_args: {monitor: val/loss, save_top_k: 2, every_n_train_steps: %d}
  - class_path: wegeft_pl.callbacks.RunReport
    init_args: {summary: false}
model:
  class_path: wegeft_pl.tasks.CausalLMTask
  init_args: {backbone: llama, generate: false}
data:
  class_path: wegeft_pl.data.GSM8KDataModule
  init_args: {path: data, batch_size: 2}
adapter:
  class_path: wegeft_pl.callbacks.WeGeFTInjector
  init_args: {targets: [q_proj, down_proj], rank: 4, alpha: 8.0, input_dropout: 0.2}
optimizer:
  class_path: torch.optim.AdamW
  init_args: {lr: 0.01}
lr_scheduler:
  class_path: wegeft_pl.tasks.LinearSchedule
  init_args: {warmup_steps: 2}
"""
SAVE_TOP_K = 2

#: What kills an attempt: called at a named moment, with how often that moment has come.
Killer = Callable[[str, int], None]
_moments: dict[str, int] = {}
_killer: list[Killer] = []


def moment(name: str) -> None:
    """Says that a moment has come."""
    _moments[name] = _moments.get(name, 0) + 1
    for killer in _killer:
        killer(name, _moments[name])


class Recorder(Callback):
    """Appends what was computed: losses bit by bit, and learning rates."""

    def __init__(self, file: str) -> None:
        self.file = Path(file).absolute()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        moment("batch starts")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        logged = trainer.fit_loop.epoch_loop._batches_that_stepped
        key = f"train {trainer.current_epoch} {batch_idx} {trainer.global_step} {logged}"
        self._write(key, float(outputs["loss"]), rate)
        moment("batch ends")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        moment("validation starts")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = float(trainer.callback_metrics["val/loss"])
        self._write(f"val {trainer.current_epoch} {trainer.global_step}", value, 0.0)
        moment("validation ends")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        moment("epoch ends")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        moment("training ends")

    def _write(self, key: str, *values: float) -> None:
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(f"{key}: {' '.join(value.hex() for value in values)}\n")


class HalfFile:
    """A file that writes in two parts."""

    def __init__(self, path: Any, mode: str) -> None:
        self.file = open(path, mode)  # noqa: SIM115

    def __enter__(self) -> HalfFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: memoryview) -> None:
        moment("before writing")
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        moment("half written")
        self.file.write(data[len(data) // 2 :])

    def flush(self) -> None:
        self.file.flush()
        moment("written, not synced")

    def fileno(self) -> int:
        return self.file.fileno()


def watch_writes() -> None:
    """Makes the moments inside a checkpoint's write known."""
    replace, remove = os.replace, checkpoint_io.TorchCheckpointIO.remove_checkpoint

    def watched_replace(source: Any, target: Any) -> None:
        if not str(target).endswith(".ckpt"):
            replace(source, target)
            return
        moment("before renaming")
        replace(source, target)
        moment("last renamed" if Path(target).name == "last.ckpt" else "best renamed, last not")

    def watched_remove(self: Any, path: Any) -> None:
        moment("before removing an old one")
        remove(self, path)
        moment("an old one removed")

    checkpoint_io.open = HalfFile  # type: ignore[attr-defined]
    os.replace = watched_replace
    checkpoint_io.TorchCheckpointIO.remove_checkpoint = watched_remove  # type: ignore[method-assign]


def attempt(folder: Path, killer: Killer | None, seconds: float | None = None) -> int:
    """Runs the command once in a child; returns its exit code, -9 where it was killed."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        watch_writes()
        if killer is not None:
            _killer.append(killer)
        code = main(["fit", "--config", "my.yaml", "--run_dir", "run", "--ckpt_path", "last"])
        (folder / "moments.json").write_text(json.dumps(_moments))
        os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def kill_at(name: str, number: int, by: int = signal.SIGKILL) -> Killer:
    def killer(now: str, count: int) -> None:
        if (now, count) == (name, number):
            os.kill(os.getpid(), by)

    return killer


def recorded(folder: Path) -> dict[str, set[str]]:
    """All values written under each key; more than one where a step that was done twice came out otherwise."""
    values: dict[str, set[str]] = {}
    for line in (folder / "recorded.txt").read_text().splitlines():
        key, value = line.split(": ")
        values.setdefault(key, set()).add(value)
    return values


def final_state(folder: Path) -> dict[str, Any]:
    """What a finished run leaves: everything that decides how it would go on, and the results."""
    run = folder / "run"
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state = next(value for key, value in saved["callbacks"].items() if key.startswith("AdapterCheckpoint"))
    names = {Path(path).name: float(score).hex() for path, score in state["best_k_models"].items()}
    tensors = {name: tensor.tolist() for name, tensor in saved["state_dict"].items()}
    optimizer = [[value.tolist() for value in part.values()] for part in saved["optimizer_states"][0]["state"].values()]
    random_states = [{name: tensor.tolist() for name, tensor in each.items()} for each in saved["wegeft_pl"]["random"]]
    return {
        "step": saved["global_step"],
        "tensors": tensors,
        "optimizer": optimizer,
        "schedule": {name: repr(value) for name, value in saved["lr_schedulers"][0].items()},
        "random": random_states,
        "best": names,
        "best path": Path(state["best_model_path"]).name,
        "files": sorted(path.name for path in (run / "checkpoints").iterdir()),
        "adapter": values_of(run / "adapter" / "adapter.safetensors"),
        "merged": values_of(run / "merged" / "model.safetensors"),
        "hidden": sorted(str(path.relative_to(run)) for path in run.rglob(".*")),
        "error": json.loads((run / "run.json").read_text()).get("error"),
    }


def values_of(path: Path) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in load_file(path).items()}


def new_folder(root: Path, name: str, every: int) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "my.yaml").write_text(RECIPE % every)
    for shared in ("llama", "data"):
        (folder / shared).symlink_to(root / shared)
    return folder


def prepare(root: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 47}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = LlamaConfig(**sizes, **heads, attention_dropout=0.1, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    save_llama(LlamaForCausalLM(config), root / "llama")
    (root / "data").mkdir()
    rows = [{"question": f"{n}+{n * n}", "answer": f"{n}+{n * n}={n + n * n}\n#### {n + n * n}"} for n in range(18)]
    for split, own in (("train", rows), ("val", rows[:3])):
        (root / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")


def live(root: Path, number: int, every: int, kills: list[tuple[str, float]]) -> dict[str, Any]:
    """One run, killed again and again and in the end left to finish."""
    folder = new_folder(root, f"life{number}", every)
    done: list[str] = []
    problems: list[str] = []
    for name, value in kills:
        if name == "time":
            code = attempt(folder, None, value)
        else:
            code = attempt(folder, kill_at(name, int(value)))
        if code == -signal.SIGKILL:
            done.append(f"{name} {value:g}")
        elif code != 0:
            problems.append(f"{name} {value:g}: exit code {code}: {(folder / 'log.txt').read_text()[-500:]}")
        checkpoints = folder / "run" / "checkpoints"
        files = sorted(path.name for path in checkpoints.iterdir()) if checkpoints.is_dir() else []
        if len([file for file in files if file.endswith(".ckpt")]) > SAVE_TOP_K + 2:
            problems.append(f"{name} {value:g} left {files}")
    code = attempt(folder, None)
    if code != 0:
        problems.append(f"exit code {code}: {(folder / 'log.txt').read_text()[-500:]}")
    return {"kills": done, "problems": problems}


def compare(root: Path, life: Path, whole: Path) -> list[str]:
    """Names what differs between a run that was killed and one that was not."""
    mine, theirs = recorded(life), recorded(whole)
    problems = [
        f"{key}: {values} instead of {theirs.get(key)}" for key, values in mine.items() if values != theirs.get(key)
    ]
    problems += [f"{key} is missing" for key in theirs.keys() - mine.keys()]
    ours, other = final_state(life), final_state(whole)
    return problems + [f"{name} differs: {str(ours[name])[:200]}" for name in other if ours[name] != other[name]]


def drive(root: Path, seed: int, runs: int) -> None:
    prepare(root)
    draw = random.Random(seed)
    result: dict[str, Any] = {"kills": [], "problems": []}
    wholes: dict[int, tuple[Path, dict[str, int], float]] = {}
    for every in (1, 3):
        whole = new_folder(root, f"whole{every}", every)
        started = time.monotonic()
        assert attempt(whole, None) == 0, (whole / "log.txt").read_text()
        seconds = time.monotonic() - started
        wholes[every] = whole, json.loads((whole / "moments.json").read_text()), seconds
    # Every named moment is met at least once, in runs that are killed three times each.
    names = sorted(wholes[1][1]) * 2 + ["time"] * 8
    draw.shuffle(names)
    for number in range(runs):
        every = 1 if number % 2 else 3
        whole, moments, seconds = wholes[every]
        kills = [
            (name, draw.uniform(0.2, 0.9) * seconds if name == "time" else draw.randint(1, max(1, moments[name] // 2)))
            for name in names[number::runs]
        ]
        outcome = live(root, number, every, kills)
        result["kills"] += outcome["kills"]
        result["problems"] += [f"life {number}: {problem}" for problem in outcome["problems"]]
        result["problems"] += [f"life {number}: {text}" for text in compare(root, root / f"life{number}", whole)]
    # The same with signals that ask: the run ends its step by itself.
    whole, folder = wholes[3][0], new_folder(root, "asked", 3)
    asked = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
    codes = [attempt(folder, kill_at("batch starts", number, by)) for number, by in zip((4, 3, 9), asked, strict=True)]
    result["codes"] = [*codes, attempt(folder, None)]
    result["steps"] = [
        int(line.split("behind step ")[1].split(",")[0])
        for line in (folder / "log.txt").read_text().splitlines()
        if line.startswith("stopped by ")
    ]
    result["problems"] += [f"asked to stop: {text}" for text in compare(root, folder, whole)]
    (root / "result.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    sys.modules["kill_driver"] = sys.modules["__main__"]  # the recipe's Recorder is to be this one
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    drive(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
