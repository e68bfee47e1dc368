"""What a user asks before any training answers without importing torch or Lightning."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from wegeft_pl.__main__ import main
code = main({arguments!r})
heavy = [name for name in ("torch", "lightning", "transformers", "jsonargparse", "torchmetrics") if name in sys.modules]
print(f"code={{code}} heavy={{heavy}}", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["configs", "ls"],
        ["configs", "show", "smoke"],
        ["fti"],
        ["configs", "--help"],
        ["configs", "lss"],
    ],
)
def test_light_commands_stay_light(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(arguments=arguments)], capture_output=True, text=True, check=True
    )
    code = 2 if arguments[-1] in ("fti", "lss") else 0
    assert done.stderr.splitlines()[-1] == f"code={code} heavy=[]"
