"""The stories of the SYNTHETIC word problems: templates, and the names, things and places that fill them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """One story.

    Attributes:
        name: identifies the story when problems are held out; never reuse one for another text.
        text: the question, with {a}, {b}, {c} for numbers and {name}, {other}, {he}, {He}, {things}, {place} for words.
        steps: the solution, such as ("a+b", "x-c"), where x is the first step's result.
    """

    name: str
    text: str
    steps: tuple[str, ...]


NAMES = (
    ("Tom", "he"),
    ("Mia", "she"),
    ("Ben", "he"),
    ("Eva", "she"),
    ("Sam", "he"),
    ("Lily", "she"),
    ("Max", "he"),
    ("Nora", "she"),
    ("Leo", "he"),
    ("Anna", "she"),
    ("Omar", "he"),
    ("Ruth", "she"),
)
THINGS = ("apples", "pens", "books", "cards", "shells", "stamps", "eggs", "plums", "balls", "toys", "keys", "beads")
PLACES = ("box", "bag", "jar", "basket", "drawer", "crate")

TEMPLATES = (
    # One step.
    Template(
        "buy-more",
        "{name} has {a} {things}. {He} buys {b} more. How many {things} does {name} have now?",
        ("a+b",),
    ),
    Template(
        "put-in",
        "There are {a} {things} in a {place}. {name} puts {b} more in. How many {things} are in the {place}?",
        ("a+b",),
    ),
    Template(
        "together",
        "{name} has {a} {things} and {other} has {b} {things}. How many {things} do they have together?",
        ("a+b",),
    ),
    Template(
        "give-away",
        "{name} has {a} {things}. {He} gives {b} to {other}. How many {things} does {name} have left?",
        ("a-b",),
    ),
    Template(
        "take-out",
        "There were {a} {things} in a {place}. {name} took {b} out. How many {things} are left in the {place}?",
        ("a-b",),
    ),
    Template(
        "compare",
        "{name} has {a} {things} and {other} has {b} {things}. How many more {things} does {name} have?",
        ("a-b",),
    ),
    Template(
        "fill",
        "{name} fills {a} bags with {b} {things} each. How many {things} does {he} need?",
        ("a*b",),
    ),
    Template(
        "pay",
        "{name} buys {a} {things} at {b} coins each. How many coins does {he} pay?",
        ("a*b",),
    ),
    Template(
        "share",
        "{name} shares {a} {things} equally among {b} friends. How many {things} does each friend get?",
        ("a/b",),
    ),
    Template(
        "pack",
        "{name} packs {a} {things} in bags of {b}. How many bags does {he} need?",
        ("a/b",),
    ),
    # Two steps.
    Template(
        "buy-give",
        "{name} has {a} {things}. {He} buys {b} more, then gives {c} to {other}. "
        "How many {things} does {name} have now?",
        ("a+b", "x-c"),
    ),
    Template(
        "lose-find",
        "{name} had {a} {things}. {He} lost {b} and found {c} later. How many {things} does {name} have now?",
        ("a-b", "x+c"),
    ),
    Template(
        "take-take",
        "There were {a} {things} in a {place}. {name} took {b} out and {other} took {c} out. "
        "How many {things} are left in the {place}?",
        ("a-b", "x-c"),
    ),
    Template(
        "three-days",
        "{name} sold {a} {things} on Monday, {b} on Tuesday and {c} on Friday. How many {things} did {he} sell?",
        ("a+b", "x+c"),
    ),
    Template(
        "fill-extra",
        "{name} fills {a} bags with {b} {things} each and has {c} {things} left over. "
        "How many {things} does {name} have?",
        ("a*b", "x+c"),
    ),
    Template(
        "fill-break",
        "{name} has {a} boxes with {b} {things} each. {c} {things} break. How many {things} are not broken?",
        ("a*b", "x-c"),
    ),
    Template(
        "change",
        "{name} has {c} coins. {He} buys {a} {things} at {b} coins each. How many coins does {name} have left?",
        ("a*b", "c-x"),
    ),
    Template(
        "find-packs",
        "{name} has {c} {things}. {He} buys {a} packs of {b} {things}. How many {things} does {name} have now?",
        ("a*b", "c+x"),
    ),
    Template(
        "join-share",
        "{name} has {a} {things} and {other} has {b}. They share them equally among {c} friends. "
        "How many {things} does each friend get?",
        ("a+b", "x/c"),
    ),
    Template(
        "keep-pack",
        "{name} has {a} {things}. {He} keeps {b} and packs the rest in bags of {c}. How many bags does {he} need?",
        ("a-b", "x/c"),
    ),
    Template(
        "share-more",
        "{name} shares {a} {things} equally among {b} jars, then puts {c} more in each jar. "
        "How many {things} are in each jar?",
        ("a/b", "x+c"),
    ),
    Template(
        "share-eat",
        "{b} friends share {a} {things} equally. {name} is one of them and uses {c}. "
        "How many {things} does {name} have left?",
        ("a/b", "x-c"),
    ),
    Template(
        "daily",
        "Each day {name} makes {a} {things} and {other} makes {b}. How many {things} do they make in {c} days?",
        ("a+b", "x*c"),
    ),
    Template(
        "price-share",
        "{name} and {c} friends buy {a} {things} at {b} coins each. The {c} friends pay it all in equal parts. "
        "How many coins does each friend pay?",
        ("a*b", "x/c"),
    ),
)
