r"""SYNTHETIC word problems: templated stories in the layout of GSM8K, and a pretraining text around them.

A story has one or two steps; its answer is a chain, one line a step, closed by "#### n":

    {"question": "Tom has 12 apples. He buys 7 more, then gives 4 to Mia. How many apples does Tom have now?",
     "answer": "12+7=19\n19-4=15\n#### 15"}

The pretraining text holds every ingredient of such an answer but never the answer itself: bare equations, expressions
answered by a chain, stories answered by a single number, and stories restated as an expression. Fine-tuning has to
recombine them. Held-out problems are chosen by (template, numbers); no story of either training stage uses such a pair.

Regenerate the shipped files: python -m wegeft_pl.quickstart.word_problems --output DIR
"""

import argparse
import json
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wegeft_pl.quickstart.story_templates import NAMES, PLACES, TEMPLATES, THINGS, Template

MAX_NUMBER = 99  # every operand, intermediate result and answer lies in 1..MAX_NUMBER
MAX_FACTOR = 12  # factors, divisors and quotients: the multiplication table
HELD_OUT_ONE_IN = 10
TRAIN_SIZE, TEST_SIZE = 5000, 300
SPLIT_SEED = 0
OPERATORS = "++--*/"  # of bare equations: sums and differences have the larger tables to learn

PROMPT = "Question: {question}\nAnswer:\n"
EXPRESSION_PROMPT = "Question: {question}\nExpression:\n"


@dataclass(frozen=True)
class Problem:
    """One word problem: its text, its restatement as an expression, and its answer as a chain of equations."""

    template: str
    numbers: tuple[int, ...]
    question: str
    expression: str
    answer: str
    result: int


@dataclass(frozen=True)
class Document:
    """One pretraining text in pieces: those at even places are given (a question), those at odd places follow."""

    kind: str
    pieces: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The first given piece."""
        return self.pieces[0]

    @property
    def response(self) -> str:
        """All that comes after the prompt."""
        return "".join(self.pieces[1:])


def compute(left: int, operator: str, right: int) -> int | None:
    """Apply one operator inside the small world of numbers that the problems use.

    Returns:
        The result, or None where it is not exact, not in 1..MAX_NUMBER, or outside the multiplication table.

    Example:
        >>> compute(12, "+", 7), compute(12, "/", 5), compute(3, "-", 7)
        (19, None, None)
    """
    if operator == "+":
        result = left + right
    elif operator == "-":
        result = left - right
    elif operator == "*":
        result = left * right if max(left, right) <= MAX_FACTOR else 0
    else:
        result = left // right if left % right == 0 and max(right, left // right) <= MAX_FACTOR else 0
    return result if 1 <= result <= MAX_NUMBER else None


def solve(steps: Sequence[str], numbers: Sequence[int]) -> tuple[list[str], int] | None:
    """Carry out the steps on the numbers a, b, c; in the second step, x is the first one's result.

    Args:
        steps: three-character steps such as ("a+b", "x-c").
        numbers: the values of a, b and, for two steps, c.

    Returns:
        The chain's equations and the final result, or None where a step leaves the small world of `compute`.

    Example:
        >>> solve(("a+b", "x-c"), (12, 7, 4))
        (['12+7=19', '19-4=15'], 15)
    """
    values = dict(zip("abc", numbers, strict=False))
    lines = []
    for step in steps:
        left, right = values[step[0]], values[step[2]]
        result = compute(left, step[1], right)
        if result is None:
            return None
        lines.append(f"{left}{step[1]}{right}={result}")
        values["x"] = result
    return lines, values["x"]


def write_expression(steps: Sequence[str], numbers: Sequence[int]) -> str:
    """Write the steps as one infix expression, with parentheses only where they are needed.

    Example:
        >>> write_expression(("a+b", "x/c"), (12, 8, 4)), write_expression(("a*b", "c-x"), (3, 4, 30))
        ('(12+8)/4', '30-3*4')
    """
    values = {letter: str(number) for letter, number in zip("abc", numbers, strict=False)}
    for step in steps:
        left, operator, right = step[0], step[1], step[2]
        inner = values.get("x", "")
        is_sum = "+" in inner or "-" in inner
        if (is_sum and operator in "*/") or (right == "x" and (operator in "*/" or (is_sum and operator == "-"))):
            values["x"] = f"({inner})"
        values["x"] = f"{values[left]}{operator}{values[right]}"
    return values["x"]


def write_chain(lines: Sequence[str], result: int) -> str:
    r"""Close a chain of equations with GSM8K's marker.

    Example:
        >>> write_chain(["12+7=19"], 19)
        '12+7=19\n#### 19'
    """
    return "\n".join([*lines, f"#### {result}"])


def sample_numbers(rng: random.Random, steps: Sequence[str]) -> tuple[int, ...]:
    """Draw numbers that keep every step inside the small world: factors and divisors from the table, others free."""
    letters = "abc"[: len(steps) + 1]
    factors = set("".join({"*": step[0] + step[2], "/": step[2]}.get(step[1], "") for step in steps))
    while True:
        numbers = tuple(rng.randint(2, MAX_FACTOR if letter in factors else MAX_NUMBER) for letter in letters)
        if solve(steps, numbers) is not None:
            return numbers


def is_held_out(template: str, numbers: Sequence[int]) -> bool:
    """Tell whether a (template, numbers) pair is reserved for testing, whatever the names and things around it.

    A checksum decides, so the pretraining text and both files agree without sharing a list.
    """
    return zlib.crc32(f"{template} {' '.join(map(str, numbers))}".encode()) % HELD_OUT_ONE_IN == 0


def sample_problem(rng: random.Random, template: Template, held_out: bool) -> Problem:
    """Draw one problem of a template.

    Args:
        rng: source of randomness.
        template: the story and its steps.
        held_out: draw from the (template, numbers) pairs reserved for testing, or from all the others.

    Returns:
        The problem, its names and things drawn at random too.
    """
    numbers = sample_numbers(rng, template.steps)
    while is_held_out(template.name, numbers) != held_out:
        numbers = sample_numbers(rng, template.steps)
    (name, pronoun), (other, _) = rng.sample(NAMES, 2)
    words = {"name": name, "other": other, "he": pronoun, "He": pronoun.capitalize()}
    words |= {"things": rng.choice(THINGS), "place": rng.choice(PLACES)}
    question = template.text.format(**words, **dict(zip("abc", map(str, numbers), strict=False)))
    solved = solve(template.steps, numbers)
    assert solved is not None  # sample_numbers returns nothing else
    lines, result = solved
    expression = write_expression(template.steps, numbers)
    return Problem(template.name, numbers, question, expression, write_chain(lines, result), result)


def build_split(seed: int, size: int, held_out: bool) -> list[Problem]:
    """Draw problems with distinct questions, the templates taken in equal parts.

    Args:
        seed: seed of the draw.
        size: number of problems.
        held_out: True builds a test set, False a training set; the two share no (template, numbers) pair.

    Returns:
        The problems, in random order.

    Example:
        >>> train, test = build_split(0, 200, held_out=False), build_split(0, 50, held_out=True)
        >>> {p.question for p in train} & {p.question for p in test}
        set()
    """
    rng = random.Random(f"{seed} {held_out}")
    problems: dict[str, Problem] = {}
    while len(problems) < size:
        problem = sample_problem(rng, TEMPLATES[len(problems) % len(TEMPLATES)], held_out)
        problems.setdefault(problem.question, problem)
    shuffled = list(problems.values())
    rng.shuffle(shuffled)
    return shuffled


def sample_expression(rng: random.Random) -> Document:
    """Draw a bare expression of one or two steps, answered by a chain that ends in "#### n"."""
    steps = ["a" + rng.choice(OPERATORS) + "b"]
    if rng.random() < 0.75:
        operator = rng.choice(OPERATORS)
        steps.append(f"c{operator}x" if rng.random() < 0.3 else f"x{operator}c")
    numbers = sample_numbers(rng, steps)
    solved = solve(steps, numbers)
    assert solved is not None
    return Document("chain", (PROMPT.format(question=write_expression(steps, numbers)), write_chain(*solved)))


def sample_equations(rng: random.Random, size: int) -> Document:
    """Draw equations, one a line; the left-hand sides are given, the right-hand sides follow."""
    pieces = []
    for index in range(size):
        steps = ["a" + rng.choice(OPERATORS) + "b"]
        numbers = sample_numbers(rng, steps)
        solved = solve(steps, numbers)
        assert solved is not None
        pieces += ["\n" * (index > 0) + write_expression(steps, numbers) + "=", str(solved[1])]
    return Document("equations", tuple(pieces))


def pretraining_documents(seed: int) -> Iterator[Document]:
    """Yield the pretraining text without end: equations, expressions with chains, stories with direct answers.

    No story is ever followed by a chain, and no held-out (template, numbers) pair appears as a story.

    Args:
        seed: seed of the stream.

    Yields:
        Documents of the kinds "equations", "chain", "direct" and "expression".
    """
    rng = random.Random(f"{seed} pretraining")
    while True:
        kind = rng.choices(("equations", "chain", "direct", "expression"), weights=(25, 40, 20, 15))[0]
        if kind == "chain":
            yield sample_expression(rng)
        elif kind == "equations":
            yield sample_equations(rng, 6)
        else:
            problem = sample_problem(rng, rng.choice(TEMPLATES), held_out=False)
            if kind == "direct":
                yield Document(kind, (PROMPT.format(question=problem.question), str(problem.result)))
            else:
                yield Document(kind, (EXPRESSION_PROMPT.format(question=problem.question), problem.expression))


def extract_marked_number(text: str) -> int | None:
    """Read the number after the first "####": the strict reading, None without the marker.

    Example:
        >>> extract_marked_number("12+7=19\\n#### 19"), extract_marked_number("19")
        (19, None)
    """
    match = re.search(r"####\s*(-?\d+)", text)
    return int(match.group(1)) if match else None


def write_jsonl(problems: Sequence[Problem], path: Path) -> None:
    """Write problems as GSM8K rows, {"question", "answer"}, one a line."""
    rows = (json.dumps({"question": problem.question, "answer": problem.answer}) for problem in problems)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="ascii", newline="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write train.jsonl and test.jsonl."""
    parser = argparse.ArgumentParser(description="Write the synthetic word problems of the quickstart.")
    parser.add_argument("--output", type=Path, required=True, help="folder for train.jsonl and test.jsonl")
    output: Path = parser.parse_args(arguments).output
    output.mkdir(parents=True, exist_ok=True)
    write_jsonl(build_split(SPLIT_SEED, TRAIN_SIZE, held_out=False), output / "train.jsonl")
    write_jsonl(build_split(SPLIT_SEED, TEST_SIZE, held_out=True), output / "test.jsonl")


if __name__ == "__main__":
    main()
