from __future__ import annotations

import os
import sys

import pytest
from sandbox.conftest import Try

from wegeft_pl.sandbox import Limits, Trial, run_trial, run_trials

DOUBLE = "def f(x):\n    return 2 * x\n"


def test_right_and_wrong(attempt: Try) -> None:
    right = attempt(DOUBLE)
    assert (right.outcome, right.passed, right.reason, str(right)) == ("passed", True, "", "passed")
    assert set(right.contained) == {"network", "processes", "files", "user"}
    wrong = attempt("def f(x):\n    return 3 * x\n", "assert f(1) == 2, 'twice'")
    assert (wrong.outcome, wrong.reason) == ("failed", "an assertion failed: twice")
    assert str(wrong) == "failed: an assertion failed: twice"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("", "KeyError: \"'f'\""),
        ("def f(x:\n", "SyntaxError"),
        ("def f(x):\n    return x.missing\n", "AttributeError: 'int' object has no attribute 'missing'"),
        ("class Own(Exception): pass\ndef f(x):\n    raise Own('mine')\n", "Own: mine"),
        ("def f(x):\n    return f(x)\n", "RecursionError"),
    ],
)
def test_faults_are_told(attempt: Try, program: str, reason: str) -> None:
    verdict = attempt(program)
    assert verdict.outcome == "error"
    assert reason in verdict.reason


def test_tests_may_expect_an_exception(attempt: Try) -> None:
    tests = "try:\n    f(1)\n    raise AssertionError\nexcept ValueError as error:\n    assert str(error) == 'no'\n"
    assert attempt("def f(x):\n    raise ValueError('no')\n", tests).passed
    assert not attempt(DOUBLE, tests).passed


def test_tests_use_objects_of_the_program(attempt: Try) -> None:
    program = (
        "class f:\n    def __init__(self, x=0):\n        self.x = x\n"
        "    def twice(self, *, times=2):\n        yield from [self.x] * times\n"
    )
    tests = (
        "one = f(3)\nassert list(one.twice(times=3)) == [3, 3, 3]\n"
        "one.x = 7\nassert one.x == 7\nassert list(one.twice()) == [7, 7]\n"
    )
    assert attempt(program, tests).passed


def test_arguments_that_the_program_changes_are_changed(attempt: Try) -> None:
    program = "def f(numbers, table):\n    numbers.sort()\n    table['a'] = {1}\n"
    tests = "numbers, table = [3, 1], {}\nf(numbers, table)\nassert numbers == [1, 3] and table == {'a': {1}}\n"
    assert attempt(program, tests).passed


def test_setup_belongs_to_the_tests(attempt: Try) -> None:
    setup = "import math\ndef near(a, b):\n    return math.isclose(a, b)\n"
    assert attempt("def f(x):\n    return x * 1.0\n", "assert near(f(1), 1)", setup).passed
    cheat = "def near(a, b):\n    return True\ndef f(x):\n    return 5\n"
    assert attempt(cheat, "assert near(f(1), 1)", setup).outcome == "failed"


def test_what_is_kept_for_scripts_does_not_run(attempt: Try) -> None:
    assert attempt(DOUBLE + "if __name__ == '__main__':\n    input()\n").passed


def test_many_at_a_time_keep_their_order() -> None:
    trials = [Trial(f"def f():\n    return {n}\n", f"assert f() == {n % 2}", ("f",)) for n in range(4)]
    verdicts = run_trials(trials, Limits(wall_seconds=30), num_workers=2)
    assert [verdict.passed for verdict in verdicts] == [True, True, False, False]


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(OSError, match="programs are run under limits on Linux and other POSIX systems only"):
        run_trial(Trial("", "", ()), Limits())


def test_the_containment_that_this_machine_grants_is_real(attempt: Try) -> None:
    if sys.platform != "linux":
        pytest.skip("namespaces are Linux's")
    verdict = attempt(
        "import os, socket\ndef f(x):\n"
        "    return [socket.if_nameindex(), len([n for n in os.listdir('/proc') if n.isdigit()]), os.getuid()]\n",
        "found = f(1)\nraise RuntimeError(repr(found))",
    )
    interfaces, num_processes, user = eval(verdict.reason.removeprefix("RuntimeError: "))
    if verdict.contained["network"]:
        assert {name for _, name in interfaces} <= {"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0"}
    if verdict.contained["processes"] and verdict.contained["files"]:
        assert num_processes == 2
    assert verdict.contained["user"] == (user != 0)
