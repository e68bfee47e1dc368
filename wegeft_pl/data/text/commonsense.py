"""Commonsense reasoning: eight sets of multiple choice, trained on together and scored one by one."""

from __future__ import annotations

from functools import partial
from typing import Literal

from wegeft_pl.data.rows import Row
from wegeft_pl.data.text.commonsense_hub import COMMONSENSE_HUB
from wegeft_pl.data.text.mixture import MixtureDataModule
from wegeft_pl.data.text.prompts import read_cut
from wegeft_pl.data.text.token_cache import CACHE_DIR
from wegeft_pl.metrics import AnswerRule, after_marker, first_choice, same_text
from wegeft_pl.metrics.choices import MARKER

#: The names of choices; the other sets have answers. Some questions of ARC have three or five.
_CHOICES = {
    "boolq": ["true", "false"],
    "piqa": ["solution1", "solution2"],
    "hellaswag": ["ending1", "ending2", "ending3", "ending4"],
    "winogrande": ["option1", "option2"],
}
_ANSWERS = ["answer1", "answer2", "answer3", "answer4", "answer5"]


class CommonsenseDataModule(MixtureDataModule):
    """BoolQ, PIQA, SIQA, HellaSwag, WinoGrande, ARC easy and challenge, and OpenBookQA in the LLM-Adapters format.

    A prompt is the instruction and a line break, the target "the correct answer is X". Each task's score has the task's
    name, and ``mean`` is their mean. An answer takes some 10 tokens: 32 new ones (``model.max_new_tokens``) are enough.

    Args:
        path: a checkout of LLM-Adapters, its dataset folder (TASK/train.json, TASK/test.json), a folder of TASK.json
            test files, one task's folder, or one file; null: the original sets on the hub, converted.
        train_path: a .json or .jsonl file to train on, such as commonsense_170k.json; null: commonsense_170k.json where
            ``path`` has it and ``train_tasks`` is null, else the training rows of the tasks one behind the other.
        tasks: what is scored: boolq, piqa, social_i_qa, hellaswag, winogrande, ARC-Easy, ARC-Challenge, openbookqa;
            null: all that have test rows, and those that have none are named.
        train_tasks: the tasks that are trained on; null: all that have training rows.
        tokenizer: hub id or folder of the tokenizer; null: the task's own.
        prompt: a template's name (plain, alpaca, qa) or a text with ``{question}``, which stands for the instruction.
        max_length: most tokens of prompt, response and EOS; longer sequences are cut on the right and counted.
        train_on_prompt: whether the loss counts the prompt too.
        val_size: rows held out of the training rows for validation (seeded); 0: none, unless there are val files.
        test_size: rows held out of the training rows for test; 0: none, unless there are test files.
        limit_train: keep the first training rows of each task only (of the file, where one file is trained on).
        limit_val: the same for validation.
        limit_test: the same for test.
        batch_size: training sequences per batch and process.
        eval_batch_size: validation and test sequences per batch and process; null: as ``batch_size``.
        num_workers: processes that collate batches; 0 is right nearly always.
        pad_to_multiple_of: round sequence lengths up to a multiple of this; null: no rounding.
        seed: seed of the training order and of the held-out rows.
        packing: put several training samples into one row of ``max_length`` tokens, each blind to the others.
        group_by_length: make training batches of samples of similar length.
        num_proc: processes that tokenise; null: this one, where a fast tokenizer has threads of its own.
        cache_dir: folder that keeps the tokens of 1,000 rows or more for the next run; null: none.
        answer_match: ``exact``: all that follows the last "the correct answer is" must be the answer; ``first``: the
            first name of a choice anywhere counts, as LLM-Adapters scores.

    Raises:
        ValueError: a size is out of range, a task, the prompt template or ``answer_match`` is unknown, or two options
            exclude each other.

    Source: METHOD.md section 8.
    """

    suite = tuple(COMMONSENSE_HUB)
    mix = "commonsense_170k"
    hub_tasks = COMMONSENSE_HUB

    def __init__(
        self,
        path: str | None = None,
        train_path: str | None = None,
        tasks: list[str] | None = None,
        train_tasks: list[str] | None = None,
        tokenizer: str | None = None,
        prompt: str = "plain",
        max_length: int = 512,
        train_on_prompt: bool = False,
        val_size: int = 0,
        test_size: int = 0,
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
        answer_match: Literal["exact", "first"] = "exact",
    ) -> None:
        super().__init__(
            path=path,
            train_path=train_path,
            tasks=tasks,
            train_tasks=train_tasks,
            tokenizer=tokenizer,
            prompt=prompt,
            max_length=max_length,
            train_on_prompt=train_on_prompt,
            val_size=val_size,
            test_size=test_size,
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
        )
        if answer_match not in ("exact", "first"):
            raise ValueError(f"data.answer_match must be 'exact' or 'first', got {answer_match!r}")
        self.answer_match = answer_match

    def rules(self, task: str) -> dict[str, AnswerRule]:
        """One score, in the task's name."""
        extract = after_marker if self.answer_match == "exact" else partial(first_choice, choices=choices_of(task))
        return {task: AnswerRule(partial(read_cut, extract, self.template), same_text, task, in_mean=True)}

    def reference_of(self, row: Row) -> str | None:
        """The name of the right choice."""
        answer = row["answer"]
        return answer if answer in choices_of(row["task"]) else None

    def malformed(self, answer: str) -> str:
        """Says that a gold answer names no choice."""
        return f"the gold answer must name a choice, such as true, answer2 or option1, got {answer[:40]!r}"

    def response_of(self, row: Row) -> str:
        """The answer behind its marker, as the paper trains it, whatever the file has as its output."""
        return f"{MARKER} {row['answer']}"

    def leads_to_answer(self, row: Row) -> bool:
        """Whether the file's own output names the same choice."""
        return after_marker(row["output"]) == row["answer"]

    def describe(self) -> dict[str, object]:
        """Adds how answers are matched."""
        return {**super().describe(), "answer_match": {"test": self.answer_match}}


def choices_of(task: str) -> list[str]:
    """Lists the names that a task's choices may have; all names for a file of several tasks.

    Example:
        >>> choices_of("boolq"), choices_of("piqa"), len(choices_of("commonsense_170k"))
        (['true', 'false'], ['solution1', 'solution2'], 15)
    """
    if task in CommonsenseDataModule.suite:
        return _CHOICES.get(task, _ANSWERS)
    return [choice for choices in (*_CHOICES.values(), _ANSWERS) for choice in choices]
