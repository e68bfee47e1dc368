"""Boxes of every shape, and LaTeX compared as text."""

import json

import pytest

from wegeft_pl.metrics import last_boxed, normalise_latex, same_latex


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"so $\boxed{7}$.", "7"),
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{\text{a {b {c}}} d}", r"\text{a {b {c}}} d"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),  # an escaped brace that nothing closes
        (r"\boxed{a \\} tail}", "a \\\\"),  # a line break before the closing brace
        (r"\fbox{9}", "9"),
        (r"\boxed {4}", "4"),
        (r"$\boxed 5$", "5"),
        (r"\boxed 5.", "5"),
        (r"\boxed{1}, then \boxed{2", "1"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{ -3 }", "-3"),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed", None),
        ("boxed{1}", None),
        (r"\boxed}1{", None),
        ("", None),
        ("{" * 5000, None),
    ],
)
def test_the_last_closed_box(text, expected):
    assert last_boxed(text) == expected


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"\tfrac 1 2", "1/2"),
        ("-1/2", r"-\frac{1}{2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"10\%", "10"),
        (r"\$5.", "5"),
        ("1,000", "1000"),
        ("1,000,000.50", "1000000.5"),
        ("0.50", ".5"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"x \, + \! y", "x+y"),
        (r"11\sqrt 2", r"11\sqrt{2}"),
    ],
)
def test_layout_makes_no_difference(a, b):
    assert same_latex(a, b)
    assert same_latex(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1", "2"),
        ("2x", "x+x"),
        (r"\frac{1}{2}", r"\frac{2}{1}"),
        ("(1,2)", "(2,1)"),
        ("-3", "3"),
        ("1,2", "12"),
        ("", "0"),
    ],
)
def test_different_answers_differ(a, b):
    assert not same_latex(a, b)


def test_commands_are_not_cut_short():
    assert normalise_latex(r"\rightarrow") == r"\rightarrow"
    assert normalise_latex(r"\leftarrow") == r"\leftarrow"


def test_every_gold_solution_of_math_500_gives_its_own_answer(shared):
    lines = (shared / "data/text/math/math500_test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    boxed = [last_boxed(row["solution"]) for row in rows]
    assert len(rows) == 500
    assert [row["unique_id"] for row, box in zip(rows, boxed, strict=True) if not same_latex(box, row["answer"])] == []
