"""GSM8K: grade-school word problems whose answer follows ``####``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from wegeft_pl.data.text.prompted import PromptedDataModule
from wegeft_pl.data.text.prompts import PromptTemplate
from wegeft_pl.data.text.token_cache import CACHE_DIR
from wegeft_pl.metrics import gsm8k_strict, last_number


class GSM8KDataModule(PromptedDataModule):
    """GSM8K, or any set of rows in its format: a question, and an answer that ends in ``#### number``.

    Generated answers get two scores: ``exact_match`` (strict: the number after the first ``####`` that has one) and
    ``flexible_match`` (the last number), both cut at the template's stop strings first. The template ``plain`` and
    templates of one's own have no stop strings, so where a model writes on, the flexible score reads its last words.

    Args:
        path: a folder with train.jsonl and test.jsonl; a single .jsonl or .json file; ``bundled:word_problems``;
            null: openai/gsm8k on the hub.
        tokenizer: hub id or folder of the tokenizer; null: the task's own.
        question_column: the column with the question.
        answer_column: the column with the gold answer.
        prompt: a template's name (qa, alpaca, plain) or a text with ``{question}``.
        max_length: most tokens of prompt, response and EOS; longer sequences are cut on the right and counted.
        train_on_prompt: whether the loss counts the prompt too.
        val_size: rows held out of train for validation (seeded); 0: none, unless the folder has a val file.
        test_size: rows held out of train for test; 0: none, unless there is a test file.
        limit_train: keep the first rows of train only; null: all.
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
        streaming: read rows and tokens from files as they are needed, for .jsonl files larger than memory.

    Raises:
        ValueError: a size is out of range, or the prompt template is unknown.

    Source: METHOD.md section 8.
    """

    hub = ("openai/gsm8k", "main")

    def __init__(
        self,
        path: str | None = None,
        tokenizer: str | None = None,
        question_column: str = "question",
        answer_column: str = "answer",
        prompt: str = "qa",
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
        streaming: bool = False,
    ) -> None:
        super().__init__(
            path=path,
            tokenizer=tokenizer,
            question_column=question_column,
            answer_column=answer_column,
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
            streaming=streaming,
        )

    @property
    def answer_extractors(self) -> Mapping[str, Callable[[str], str | None]]:
        """The strict score, which is the headline, and the flexible one beside it."""
        return {
            "exact_match": partial(_extract, gsm8k_strict, self.template),
            "flexible_match": partial(_extract, last_number, self.template),
        }

    def reference(self, answer: str) -> str | None:
        """Finds the number after ``####``."""
        return gsm8k_strict(answer)

    def malformed(self, answer: str) -> str:
        """Says that the gold answer has no ``#### number``."""
        return f"the gold answer must end in '#### number', got {answer[-40:]!r}"


def _extract(extractor: Callable[[str], str | None], template: PromptTemplate, text: str) -> str | None:
    return extractor(template.cut(text))
