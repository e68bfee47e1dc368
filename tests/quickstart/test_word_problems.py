"""The word problems: right arithmetic by an independent reading, disjoint splits, files that regenerate bit for bit."""

import json
import random
import re
import subprocess
import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest

import wegeft_pl.quickstart.word_problems as word_problems
from wegeft_pl.quickstart.story_templates import NAMES, TEMPLATES, THINGS
from wegeft_pl.quickstart.word_problems import (
    build_split,
    extract_marked_number,
    is_held_out,
    pretraining_documents,
    sample_problem,
    solve,
    write_expression,
)

FOLDER = Path(word_problems.__file__).parent / "word_problems"


def read_rows(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text(encoding="ascii").splitlines()]


def check_chain(chain: str) -> int:
    """Recompute a chain with exact fractions and regular expressions, sharing no code with the generator."""
    *lines, last = chain.split("\n")
    assert 1 <= len(lines) <= 2
    previous = None
    for line in lines:
        match = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", line)
        assert match, line
        left, operator, right, result = match.groups()
        x, y = Fraction(left), Fraction(right)
        exact = {"+": x + y, "-": x - y, "*": x * y, "/": x / y}[operator]
        assert exact == Fraction(result), line
        assert previous is None or previous in (left, right), chain
        previous = result
    assert last == f"#### {previous}"
    return int(previous)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_shipped_chain_is_right_and_uses_the_numbers_of_its_story(split: str) -> None:
    for row in read_rows(split):
        assert set(row) == {"question", "answer"}
        result = check_chain(row["answer"])
        assert extract_marked_number(row["answer"]) == result
        used = re.findall(r"\d+", "".join(line.split("=")[0] + " " for line in row["answer"].split("\n")[:-1]))
        intermediate = re.findall(r"=(\d+)", row["answer"])[:-1]
        for number in intermediate:
            used.remove(number)
        assert set(used) == set(re.findall(r"\d+", row["question"])), row


def test_shipped_splits_are_disjoint_and_of_the_documented_size() -> None:
    train, test = ([row["question"] for row in read_rows(split)] for split in ("train", "test"))
    assert (len(set(train)), len(set(test))) == (word_problems.TRAIN_SIZE, word_problems.TEST_SIZE)
    assert (len(train), len(test)) == (word_problems.TRAIN_SIZE, word_problems.TEST_SIZE)

    def without_words(question: str) -> str:
        names = "|".join([*(name for name, _ in NAMES), *THINGS, *word_problems.PLACES, "he", "she", "He", "She"])
        return re.sub(rf"\b({names})\b", "_", question)

    assert not {without_words(question) for question in train} & {without_words(question) for question in test}


def test_shipped_files_regenerate_bit_for_bit(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "wegeft_pl.quickstart.word_problems", "--output", str(tmp_path)],
        check=True,
        cwd=Path(word_problems.__file__).parents[2],
    )
    for name in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_every_template_has_both_training_and_held_out_problems(template: word_problems.Template) -> None:
    rng = random.Random(0)
    for held_out in (False, True):
        problem = sample_problem(rng, template, held_out)
        assert is_held_out(problem.template, problem.numbers) is held_out
        assert "{" not in problem.question
        assert eval(problem.expression) == problem.result == check_chain(problem.answer)


def test_template_names_and_texts_are_unique() -> None:
    assert len({template.name for template in TEMPLATES}) == len({template.text for template in TEMPLATES})
    assert len(TEMPLATES) == len({template.name for template in TEMPLATES})


def test_a_split_is_reproducible_and_seeds_differ() -> None:
    assert build_split(5, 60, held_out=True) == build_split(5, 60, held_out=True)
    assert build_split(5, 60, held_out=True) != build_split(6, 60, held_out=True)


def test_pretraining_never_answers_a_story_with_a_chain() -> None:
    documents = list(islice(pretraining_documents(0), 4000))
    assert documents[:50] == list(islice(pretraining_documents(0), 50))
    kinds = {document.kind for document in documents}
    assert kinds == {"equations", "chain", "direct", "expression"}
    for document in documents:
        is_story = bool(re.search(r"[A-Za-z]{2}", document.prompt.split("\n")[0].removeprefix("Question: ")))
        assert is_story == (document.kind in ("direct", "expression"))
        assert ("####" in document.response) == (document.kind == "chain")
        if document.kind == "chain":
            expression = document.prompt.split("\n")[0].removeprefix("Question: ")
            assert check_chain(document.response) == eval(expression)


def test_pretraining_stories_share_no_question_with_the_test_file() -> None:
    held_out = {row["question"] for row in read_rows("test")}
    prompts = (document.prompt for document in islice(pretraining_documents(0), 4000))
    assert not held_out & {prompt.split("\n")[0].removeprefix("Question: ") for prompt in prompts}


def test_steps_outside_the_small_world_have_no_solution() -> None:
    assert solve(("a-b",), (3, 7)) is None
    assert solve(("a/b",), (7, 2)) is None
    assert solve(("a*b",), (13, 2)) is None
    assert solve(("a+b",), (60, 60)) is None


@pytest.mark.parametrize(
    ("steps", "numbers", "expression"),
    [
        (("a-b", "c-x"), (9, 4, 20), "20-(9-4)"),
        (("a-b", "x-c"), (9, 4, 2), "9-4-2"),
        (("a*b", "x/c"), (4, 6, 8), "4*6/8"),
        (("a+b", "c*x"), (2, 3, 4), "4*(2+3)"),
    ],
)
def test_expressions_keep_the_order_of_the_steps(
    steps: tuple[str, ...], numbers: tuple[int, ...], expression: str
) -> None:
    assert write_expression(steps, numbers) == expression
    solved = solve(steps, numbers)
    assert solved is not None
    assert eval(expression) == solved[1]


@pytest.mark.parametrize(("text", "number"), [("19", None), ("#### 19", 19), ("a\n####7\n#### 8", 7), ("#### x", None)])
def test_the_strict_reading_needs_the_marker(text: str, number: int | None) -> None:
    assert extract_marked_number(text) == number


def test_the_base_was_pretrained_on_the_frame_that_recipes_use() -> None:
    from wegeft_pl.data.text.prompts import get_template
    from wegeft_pl.quickstart.word_problems import PROMPT

    assert get_template("qa").prompt == PROMPT
