"""Hub rows of the commonsense sets become the very instructions that the LLM-Adapters files hold."""

import json

import pytest

from wegeft_pl.data.text.commonsense_hub import COMMONSENSE_HUB

ARC_ROW = {
    "question": "Which statement best explains why photosynthesis is the foundation of most food webs?",
    "choices": {
        "text": [
            "Sunlight is the source of energy for nearly all ecosystems.",
            "Most ecosystems are found on land instead of in water.",
            "Carbon dioxide is more available than other gases.",
            "The producers in all ecosystems are plants.",
        ],
        "label": ["A", "B", "C", "D"],
    },
    "answerKey": "A",
}
PIQA_ROW = {
    "goal": "How do I ready a guinea pig cage for it's new occupants?",
    "sol1": "Provide the guinea pig with a cage full of a few inches of bedding made of ripped paper strips, you will "
    "also need to supply it with a water bottle and a food dish.",
    "sol2": "Provide the guinea pig with a cage full of a few inches of bedding made of ripped jeans material, you "
    "will also need to supply it with a water bottle and a food dish.",
    "label": 0,
}
SIQA_ROW = {
    "context": "Tracy didn't go home that evening and resisted Riley's attacks.",
    "question": "What does Tracy need to do before this?",
    "answerA": "make a new plan",
    "answerB": "Go home and see Riley",
    "answerC": "Find somewhere to go",
    "label": "3",
}
WINOGRANDE_ROW = {
    "sentence": "Sarah was a much better surgeon than Maria so _ always got the easier cases.",
    "option1": "Sarah",
    "option2": "Maria",
    "answer": "2",
}
OPENBOOKQA_ROW = {
    "question_stem": "A person wants to start saving money so that they can afford a nice vacation at the end of the "
    "year. After looking over their budget and expenses, they decide the best way to save money is to",
    "choices": {
        "text": [
            "make more phone calls",
            "quit eating lunch out",
            "buy less with monopoly money",
            "have lunch with friends",
        ],
        "label": ["A", "B", "C", "D"],
    },
    "answerKey": "B",
}
#: Rows as the hub has them, whose counterparts are first in the LLM-Adapters test files.
ROWS = {
    "boolq": {
        "question": "does ethanol take more energy make that produces",
        "answer": False,
        "passage": "All biomass",
    },
    "piqa": PIQA_ROW,
    "social_i_qa": SIQA_ROW,
    "winogrande": WINOGRANDE_ROW,
    "ARC-Easy": ARC_ROW,
    "openbookqa": OPENBOOKQA_ROW,
}
HELLASWAG_ROW = {
    "activity_label": "Playing drums",
    "ctx_a": "People are standing behind large drums.",
    "ctx_b": "a man",
    "ctx": "People are standing behind large drums. a man",
    "endings": ["is playing a bag pipe.", "starts to play around the drums.", "begins playing a drum set.", "begins."],
    "label": "3",
}


def convert(task, row):
    return COMMONSENSE_HUB[task]["test"].convert(row, task, "here")


@pytest.mark.parametrize("task", ROWS)
def test_rows_equal_those_of_the_files(shared, task):
    file = shared / "data/text/llm_adapters/dataset" / task / "test.json"
    expected = json.loads(file.read_text(encoding="utf-8"))[0]
    row = convert(task, ROWS[task])
    assert {name: row[name] for name in ("instruction", "output", "answer")} == {
        name: expected[name] for name in ("instruction", "output", "answer")
    }
    assert row["task"] == task


def test_hellaswag_joins_its_contexts():
    row = convert("hellaswag", HELLASWAG_ROW)
    assert row["instruction"] == (
        "Please choose the correct ending to complete the given sentence: Playing drums: People are standing behind "
        "large drums. A man\n\nEnding1: is playing a bag pipe. Ending2: starts to play around the drums. Ending3: "
        "begins playing a drum set. Ending4: begins.\n\nAnswer format: ending1/ending2/ending3/ending4"
    )
    assert row["output"] == "the correct answer is ending4"
    assert (
        "Playing drums: People.\n"
        in convert("hellaswag", HELLASWAG_ROW | {"ctx_a": "People.", "ctx_b": ""})["instruction"]
    )


def test_arc_has_questions_of_three_and_five_choices_with_numbers_for_labels():
    choices = {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}
    row = convert("ARC-Challenge", {"question": "q", "choices": choices, "answerKey": "3"})
    assert row["answer"] == "answer3"
    assert row["instruction"].endswith("Answer1: a Answer2: b Answer3: c\n\nAnswer format: answer1/answer2/answer3")


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("boolq", {"answer": "false"}, "here: column 'answer' must hold bool, got str"),
        ("piqa", {"label": -1}, "here: the answer must be one of 2 choices, got number 0"),
        (
            "social_i_qa",
            {"label": ""},
            "here: the label must be a number, got ''; this split may have no public answers",
        ),
        ("winogrande", {"answer": "3"}, "here: the answer must be one of 2 choices, got number 3"),
        ("ARC-Easy", {"answerKey": "E"}, "here: the answer must be one of 4 choices, got number 0"),
        ("ARC-Easy", {"choices": None}, "here: column 'choices' must hold dict, got NoneType"),
    ],
)
def test_faulty_rows(task, change, message):
    with pytest.raises(ValueError, match=message):
        convert(task, ROWS[task] | change)
