"""Questions in training and test at once."""

from wegeft_pl.data.rows import Row
from wegeft_pl.data.text.overlap import count_overlap, overlap_text


def row(text, task):
    return Row({"instruction": text, "task": task}, "here")


def test_counts_by_task_apart_from_space_and_case():
    train = [row("How many?", "mix"), row("Why?", "mix")]
    scored = [row(" how  many?\n", "a"), row("How much?", "a"), row("why?", "b"), row("Why?", "b"), row("Who?", "c")]
    counts = count_overlap(train, scored)
    assert counts == {"a": 1, "b": 2}
    assert overlap_text(counts, scored, "test") == (
        "3 of 5 test rows have a question that is trained on (a 1 of 2, b 2 of 2); "
        "scores on these are no scores on new questions"
    )


def test_nothing_in_common():
    assert count_overlap([row("a", "t")], [row("b", "t")]) == {}
