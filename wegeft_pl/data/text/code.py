"""Code: trained on instructions, tested by programs that a model writes and that are run, if a user says so."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import Dataset

from wegeft_pl.data.rows import sha256
from wegeft_pl.data.sources import Split
from wegeft_pl.data.text import humaneval, mbpp
from wegeft_pl.data.text.base import check_least
from wegeft_pl.data.text.chat import TrainOn, make_chat_encoder
from wegeft_pl.data.text.collate import ScoredExample
from wegeft_pl.data.text.instruct import InstructDataModule
from wegeft_pl.data.text.messages import Conversation, Layout, Message
from wegeft_pl.data.text.problems import Problem, read_problem_rows
from wegeft_pl.data.text.sources import load_hub_split
from wegeft_pl.data.text.token_cache import CACHE_DIR
from wegeft_pl.data.text.tokenize import ExampleEncoder, Tokenizer
from wegeft_pl.sandbox import Limits, run_trials

BENCHMARKS = {
    "humaneval": (humaneval.HUB, humaneval.humaneval_problems),
    "mbpp": (mbpp.HUB, mbpp.mbpp_problems),
}


class CodeDataModule(InstructDataModule):
    """Instruction data to train on, and HumanEval or MBPP as the test split.

    Programs that a model wrote are run only with ``run_generated_code: true``, each in a process of its own under
    ``limits`` (see :mod:`wegeft_pl.sandbox`, which says what that contains), and scored by pass@k, k in 1, 10, 100 as
    far as ``model.num_samples`` reaches. Without it predictions are written and nothing is scored but the loss.

    Args:
        path: the instruction data: a folder, a single file, or null for the hub; see :class:`InstructDataModule`.
        benchmark: what is tested on: humaneval (164 functions) or mbpp (the 500 tasks of its test split).
        benchmark_path: its file (.jsonl, .jsonl.gz) or the folder with it; null: the hub.
        style: completion: the model continues the benchmark's own text (MBPP: with its paper's prompt); chat: it is
            asked, in the template named by ``prompt``.
        num_shots: solved tasks before each of MBPP's, in style completion; 0 to 3.
        run_generated_code: run what the model wrote.
        limits: what each program may use; null: the defaults.
        num_judges: programs that run at a time; null: one for each processor.
        tokenizer: hub id or folder of the tokenizer; null: the task's own.
        layout: how rows of the instruction data are laid out; auto: as their columns say.
        prompt: a chat template's name (alpaca, vicuna, llama2, chatml, plain), or chat for the tokenizer's own.
        train_on: the loss is on all of the assistant's turns or on the last one.
        max_length: most tokens of a conversation to train on; longer ones are cut on the right, counted, and told of.
        train_on_prompt: whether the loss counts everything else too.
        val_size: rows held out of train for validation (seeded); 0: none, unless the folder has a val file.
        limit_train: keep the first rows of train only; null: all.
        limit_val: the same for validation.
        limit_test: keep the first tasks of the benchmark only; null: all.
        batch_size: training sequences per batch and process.
        eval_batch_size: prompts per batch and process, each of which gives ``model.num_samples`` answers; null: as
            ``batch_size``.
        num_workers: processes that collate batches; 0 is right nearly always.
        pad_to_multiple_of: round sequence lengths up to a multiple of this; null: no rounding.
        seed: seed of the training order and of the held-out rows.
        packing: put several training samples into one row of ``max_length`` tokens, each blind to the others.
        group_by_length: make training batches of samples of similar length.
        num_proc: processes that tokenise; null: this one, where a fast tokenizer has threads of its own.
        cache_dir: folder that keeps the tokens of 1,000 rows or more for the next run; null: none.
        hub: the instruction data on the hub.
        hub_train: its split to train on.

    Raises:
        ValueError: a size is out of range, the template is unknown, or two options exclude each other.

    Source: METHOD.md sections 7 and 8.
    """

    def __init__(
        self,
        path: str | None = None,
        benchmark: Literal["humaneval", "mbpp"] = "humaneval",
        benchmark_path: str | None = None,
        style: Literal["completion", "chat"] = "completion",
        num_shots: int = 3,
        run_generated_code: bool = False,
        limits: Limits | None = None,
        num_judges: int | None = None,
        tokenizer: str | None = None,
        layout: Layout | Literal["auto"] = "auto",
        prompt: str = "alpaca",
        train_on: TrainOn = "all_turns",
        max_length: int = 1024,
        train_on_prompt: bool = False,
        val_size: int = 0,
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pad_to_multiple_of: int | None = None,
        seed: int = 42,
        packing: bool = False,
        group_by_length: bool = False,
        num_proc: int | None = None,
        cache_dir: str | None = CACHE_DIR,
        hub: str = "sahil2801/CodeAlpaca-20k",
        hub_train: str = "train",
    ) -> None:
        super().__init__(
            path=path,
            tokenizer=tokenizer,
            layout=layout,
            prompt=prompt,
            train_on=train_on,
            max_length=max_length,
            train_on_prompt=train_on_prompt,
            val_size=val_size,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            pad_to_multiple_of=pad_to_multiple_of,
            seed=seed,
            packing=packing,
            group_by_length=group_by_length,
            num_proc=num_proc,
            cache_dir=cache_dir,
            hub=hub,
            hub_train=hub_train,
            hub_test=None,
        )
        if not 0 <= num_shots <= len(mbpp.SHOTS):
            raise ValueError(f"data.num_shots must be from 0 to {len(mbpp.SHOTS)}, got {num_shots}")
        check_least("num_judges", num_judges, 1)
        self.benchmark, self.benchmark_path, self.style = benchmark, benchmark_path, style
        self.num_shots = num_shots
        self.run_generated_code = run_generated_code
        self.limits_of_programs = limits or Limits()
        self.num_judges = num_judges
        self._problems: list[Problem] | None = None
        self._benchmark_sha256: str | None = None
        self._said = False

    @property
    def problems(self) -> list[Problem]:
        """The benchmark's tasks, read when first asked for.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a row is faulty, or the hub cannot be reached.
        """
        if self._problems is None:
            (repository, config, splits), take = BENCHMARKS[self.benchmark]
            if self.benchmark_path is None:
                rows = []
                for split in splits:
                    found = load_hub_split(repository, config, split)
                    rows += [(row, f"{repository} {split}: row {number}") for number, row in enumerate(found, 1)]
            else:
                file, rows = read_problem_rows(self.benchmark_path)
                self._benchmark_sha256 = sha256(file)
            self._problems = take(rows, self.num_shots)
        return self._problems

    def prepare_data(self) -> None:
        """Fetches the hub's copy of what the run needs once per machine: a test needs no instruction data."""
        stage = None if self.trainer is None else self.trainer.state.fn
        if stage in (None, TrainerFn.FITTING, TrainerFn.VALIDATING):
            super().prepare_data()
        elif self.benchmark_path is None:
            _ = self.problems

    def build_split(self, split: Split, tokenizer: Tokenizer) -> Dataset | None:
        """Builds train and val from the instruction data, and test from the benchmark.

        Raises:
            ValueError: a row is faulty; its place is named.
        """
        if split != "test":
            return super().build_split(split, tokenizer)
        # Tasks are not trained on, so nothing of them is cut.
        chat = make_chat_encoder(self.prompt, tokenizer, sys.maxsize, self.train_on, self.train_on_prompt)
        plain = ExampleEncoder(tokenizer, sys.maxsize, self.train_on_prompt)
        examples = []
        for number, problem in enumerate(self.problems[: self.limits["test"]]):
            if self.style == "completion":
                prompt, encoded = problem.prompt, plain.encode(problem.prompt, problem.solution)
            else:
                question = Message("user", problem.instruction)
                code = problem.program(problem.solution)
                answer = Message("assistant", f"```python\n{code.rstrip()}\n```")
                prompt, encoded = chat.prompt([question])[0], chat.encode(Conversation((question, answer), problem.id))
            examples.append(ScoredExample(number, prompt, problem.id, encoded, task=self.benchmark))
        if not self.run_generated_code and not self._said:
            self._said = True
            rank_zero_info(
                f"{self.benchmark}: programs are written down and not run, so there is no pass@k; to run code that a "
                "model wrote on this machine, set --data.run_generated_code true"
            )
        return self.sorted_examples(split, examples)

    def make_programs(self, number: int, outputs: Sequence[str]) -> list[str]:
        """Makes programs of the answers to a task.

        Args:
            number: the task's place in the benchmark, which is its ``id`` in batches.
            outputs: what the model generated.

        Returns:
            A program for each.
        """
        return [self.problems[number].program(output) for output in outputs]

    def judge(self, programs: Sequence[tuple[int, str]]) -> list[tuple[bool, str]]:
        """Runs programs of tasks.

        Args:
            programs: each with its task's number.

        Returns:
            For each whether it passed, and the verdict in words.

        Raises:
            ValueError: generated code is not to be run.
        """
        if not self.run_generated_code:
            raise ValueError("generated code runs only on request; set data.run_generated_code to true")
        trials = [self.problems[number].trial(program) for number, program in programs]
        verdicts = run_trials(trials, self.limits_of_programs, self.num_judges)
        return [(verdict.passed, str(verdict)) for verdict in verdicts]

    def describe(self) -> dict[str, object]:
        """Adds the benchmark, how it is asked, and whether and within what limits programs run."""
        tested = {
            "name": self.benchmark,
            "sha256": self._benchmark_sha256,
            "style": self.style,
            "num_shots": self.num_shots if self.benchmark == "mbpp" and self.style == "completion" else 0,
            "run_generated_code": self.run_generated_code,
            "limits": vars(self.limits_of_programs) if self.run_generated_code else None,
        }
        return {**super().describe(), "benchmark": {"test": tested}}
