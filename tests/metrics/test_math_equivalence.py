"""math-verify in a process of its own: right, patient to a limit, and alive after everything."""

import sys
import threading
import time

import pytest

from wegeft_pl.metrics import math_equivalence, same_value
from wegeft_pl.metrics.math_equivalence import MathJudge

pytest.importorskip("math_verify")


@pytest.fixture(scope="module")
def judge():
    found = MathJudge(seconds=20.0)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("answer", "reference", "equal"),
    [
        ("2x", "x+x", True),
        (r"\frac12", "0.5", True),
        ("(x+1)^2", "x^2+2x+1", True),
        (r"\{2, 1\}", r"\{1, 2\}", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("2", "3", False),
        ("(1,2)", "(2,1)", False),
        (r"\frac{1}{0}", "1", False),
        ("", "1", False),
        ("}{", "1", False),
        (r"\undefined{", "1", False),
        ("a\nb", "1", False),
        ("\u2211", "1", False),
    ],
)
def test_values(judge, answer, reference, equal):
    assert judge.equal(answer, reference) is equal


def test_a_thread_may_ask(judge):
    found = []
    thread = threading.Thread(target=lambda: found.append(judge.equal("x+1", "1+x")))
    thread.start()
    thread.join()
    assert found == [True]


def test_an_endless_pair_is_given_up_and_the_next_one_judged():
    judge = MathJudge(seconds=1.0)
    try:
        assert judge.equal("2x", "x+x")
        started = time.monotonic()
        with pytest.warns(UserWarning, match=r"math-verify took more than 1 s for '9\^\{9.*; judged wrong"):
            assert not judge.equal("9^{9^{9^{9}}}", "9^{9^{9^{8}}}+1")
        assert time.monotonic() - started < 5
        assert judge.equal("2x", "x+x")
    finally:
        judge.close()


def test_a_process_that_dies_is_started_anew(judge):
    assert judge.equal("2x", "x+x")
    judge._process.kill()
    judge._process.wait()
    assert judge.equal("2x", "x+x") is False  # this pair is lost with the process
    assert judge.equal("2x", "x+x")


def test_a_process_that_does_not_start_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"math-verify does not start; try: /bin/false -P .*math_worker.py"):
        MathJudge().equal("1", "2")


def test_equal_texts_need_no_judge(monkeypatch):
    monkeypatch.setattr(math_equivalence._judge, "equal", lambda answer, reference: pytest.fail("asked"))
    same_value.cache_clear()
    assert same_value(r"\dfrac{1}{2}", "1/2")


def test_a_pair_is_judged_once(monkeypatch):
    asked = []
    monkeypatch.setattr(math_equivalence._judge, "equal", lambda *pair: bool(asked.append(pair)) or True)
    same_value.cache_clear()
    assert same_value("2y", "y+y")
    assert same_value("2y", "y+y")
    assert asked == [("2y", "y+y")]
    same_value.cache_clear()
