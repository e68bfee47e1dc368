from __future__ import annotations

import pytest

from wegeft_pl.metrics.code_extraction import (
    COMPLETION_STOPS,
    complete_function,
    cut_at,
    fenced_code,
    import_lines,
    preamble,
    top_level_names,
    used_names,
)

PROMPT = 'import math\n\ndef helper(x):\n    return x\n\n\ndef area(r):\n    """The area."""\n'
BODY = "    return math.pi * r * r\n"


@pytest.mark.parametrize(
    "output",
    [
        BODY,
        BODY + "\n\ndef other():\n    pass\n",
        BODY + "\nprint(area(1))",
        BODY + "\n\n# Test\nassert area(1) > 3",
        BODY + "\nif __name__ == '__main__':\n    area(1)",
        BODY + "\n```\nThis works because",
        f"Here it is:\n\n```python\n{PROMPT}{BODY}```\nIt is right.",
        f"```\ndef area(r):\n{BODY}```",
        f"```py\ndef area(r):\n{BODY}",
        f"```python\n{BODY}```",
        f"Run:\n```bash\npip install\n```\nthen\n```python\nprint(1)\n```\nand\n```python\ndef area(r):\n{BODY}```",
        f"def area(r):\n{BODY}",
    ],
)
def test_every_manner_of_answer_gives_a_program_that_works(output: str) -> None:
    space: dict = {}
    exec(complete_function(PROMPT, output, "area"), space)
    assert space["area"](1) == pytest.approx(3.14159265)
    assert space["helper"](1) == 1


def test_an_empty_answer_is_no_function() -> None:
    space: dict = {}
    exec(complete_function(PROMPT, "", "area"), space)
    assert space["area"](1) is None


def test_pieces() -> None:
    assert cut_at("a\nclass B", COMPLETION_STOPS) == "a"
    assert fenced_code("no block") is None
    assert fenced_code("```js\nx\n```") is None
    assert fenced_code("``` Python title\nx = 1\n```") == "x = 1"
    assert preamble(PROMPT, "area") == PROMPT[: PROMPT.index("def area")]
    assert preamble(PROMPT, "missing") == ""
    assert top_level_names("a, b = 1, 2\nc: int = 3\nimport x\nasync def f():\n    d = 1") == {"a", "b", "c", "f"}
    assert used_names("def f(a):\n    b = a\n    return c") == {"a", "c"}
    assert import_lines("x = 1") == ""
