"""Arithmetic reasoning: word problems with a worked answer, scored by the number, letter or box at its end."""

from __future__ import annotations

from functools import partial

from wegeft_pl.data.rows import Row
from wegeft_pl.data.text.arithmetic_hub import ARITHMETIC_HUB
from wegeft_pl.data.text.mixture import MixtureDataModule
from wegeft_pl.data.text.prompts import read_cut
from wegeft_pl.data.text.token_cache import CACHE_DIR
from wegeft_pl.metrics import (
    AnswerRule,
    choice_letter,
    first_letter,
    gsm8k_strict,
    has_math_verify,
    last_boxed,
    last_number,
    last_number_without_commas,
    normalise_number,
    numbers_equal,
    same_latex,
    same_text,
    same_value,
)

#: Numbers count as equal up to this difference, as LLM-Adapters scores.
TOLERANCE = 1e-3


class ArithmeticDataModule(MixtureDataModule):
    """AQuA, GSM8K, MAWPS, SVAMP, MultiArith, AddSub, SingleEq and MATH, trained on a mix or on one, scored one by one.

    Files may be in the LLM-Adapters format or in GSM8K's, MATH's or MAWPS's own. Each task's score has the task's name,
    and ``mean`` is their mean: the last number, commas removed, within 1e-3; for AQuA the first letter A to E; for MATH
    the last box. Beside them stand ``gsm8k_strict`` and ``gsm8k_flexible``, ``AQuA_choice`` (the letter that the text
    gives as its answer), and MATH's ``MATH_verify`` (equal in value, by math-verify; the one in the mean where
    math-verify is installed) and ``MATH_string`` (equal as normalised text).

    Generated answers take up to 512 tokens (``model.max_new_tokens``), and are cut at the template's stop strings.

    Args:
        path: a checkout of LLM-Adapters, its dataset folder (TASK/train.json, TASK/test.json), a folder of TASK.json
            test files, one task's folder, or one file; null: the sets on the hub, without AddSub and SingleEq.
        train_path: a .json or .jsonl file to train on, such as math_10k.json or GSM8K's train.jsonl; null:
            math_10k.json where ``path`` has it and ``train_tasks`` is null, else the training rows of the tasks one
            behind the other.
        tasks: what is scored: AQuA, gsm8k, mawps, SVAMP, MultiArith, AddSub, SingleEq, MATH; null: all that have test
            rows, and those that have none are named.
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

    Raises:
        ValueError: a size is out of range, a task or the prompt template is unknown, or two options exclude each other.

    Source: METHOD.md section 8.
    """

    suite = ("AQuA", "gsm8k", "mawps", "SVAMP", "MultiArith", "AddSub", "SingleEq", "MATH")
    mix = "math_10k"
    hub_tasks = ARITHMETIC_HUB

    def __init__(
        self,
        path: str | None = None,
        train_path: str | None = None,
        tasks: list[str] | None = None,
        train_tasks: list[str] | None = None,
        tokenizer: str | None = None,
        prompt: str = "alpaca",
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

    def rules(self, task: str) -> dict[str, AnswerRule]:
        """The task's own score, and others beside it; see the class."""
        close = partial(numbers_equal, tolerance=TOLERANCE)
        found: dict[str, AnswerRule]
        if task == "AQuA":
            found = {
                "AQuA": AnswerRule(first_letter, same_text, in_mean=True),
                "AQuA_choice": AnswerRule(choice_letter, same_text),
            }
        elif task == "MATH":
            verify = has_math_verify()
            found = {"MATH_verify": AnswerRule(last_boxed, same_value, in_mean=True)} if verify else {}
            found["MATH_string"] = AnswerRule(last_boxed, same_latex, in_mean=not verify)
        else:
            found = {task: AnswerRule(last_number_without_commas, close, in_mean=True)}
        if task == "gsm8k":
            found |= {"gsm8k_strict": AnswerRule(gsm8k_strict), "gsm8k_flexible": AnswerRule(last_number)}
        return {
            name: AnswerRule(partial(read_cut, rule.extract, self.template), rule.equal, task, rule.in_mean)
            for name, rule in found.items()
        }

    def task_of_row(self, row: Row) -> str:
        """Tells rows of a file of several tasks apart by their answer: a letter is AQuA's, a box MATH's."""
        if row["task"] in self.suite or normalise_number(row["answer"]) is not None:
            return row["task"]
        if _letter(row["answer"]) is not None:
            return "AQuA"
        return "MATH" if last_boxed(row["output"]) is not None else row["task"]

    def reference_of(self, row: Row) -> str | None:
        """The number, the letter, or the content of the box."""
        answer = row["answer"]
        if row["task"] == "MATH":
            return answer
        return _letter(answer) if row["task"] == "AQuA" else normalise_number(answer)

    def malformed(self, answer: str) -> str:
        """Says what a gold answer must be."""
        return f"the gold answer must be a number, or for AQuA a letter A to E, got {answer[:40]!r}"

    def response_of(self, row: Row) -> str:
        """The worked answer as the file has it."""
        return row["output"]

    def leads_to_answer(self, row: Row) -> bool:
        """Whether the worked answer ends in the gold one."""
        output, answer = row["output"], row["answer"]
        if row["task"] == "MATH":
            boxed = last_boxed(output)
            return boxed is not None and same_latex(boxed, answer)
        if row["task"] == "AQuA":
            return choice_letter(output) == _letter(answer)
        found = last_number_without_commas(output)
        return found is not None and numbers_equal(found, answer, TOLERANCE)


def _letter(answer: str) -> str | None:
    return answer if answer in tuple("ABCDE") else None
