"""Which rows a rule is for."""

from wegeft_pl.metrics import AnswerRule, last_number


def test_a_rule_without_a_task_is_for_every_row():
    rule = AnswerRule(last_number)
    assert rule.covers(None)
    assert rule.covers("boolq")
    assert rule("7 apples") == "7"
    assert rule.equal("7", "7.0")
    assert not rule.in_mean


def test_a_rule_with_a_task_is_for_its_rows():
    rule = AnswerRule(str.strip, str.__eq__, "boolq", in_mean=True)
    assert [rule.covers(task) for task in ("boolq", "piqa", None)] == [True, False, False]
