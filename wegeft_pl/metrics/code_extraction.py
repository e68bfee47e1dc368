"""Finds the program in what a model has written: pure functions from text to text."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence

#: Where the body of a function that a base model completes is over: it goes on to invent the next piece of a file.
COMPLETION_STOPS = ("\nclass ", "\ndef ", "\nasync def ", "\n#", "\nif ", "\nprint", "\nassert ", "\n@", "\n```")
_INDENTED = re.compile(r"\n*(?: {2,}|\t)")
_FENCE = re.compile(r"```[ \t]*([\w+.-]*)[^\n]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Cuts a text at the first of some strings.

    Example:
        >>> cut_at("    return x\\n\\ndef other(): pass", COMPLETION_STOPS)
        '    return x\\n'
    """
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def fenced_code(text: str, name: str | None = None) -> str | None:
    """Finds the code in a Markdown answer: the first block that defines ``name``, else the first Python block.

    A block whose end was not written (the answer was cut) counts.

    Args:
        text: an answer.
        name: the function asked for.

    Returns:
        The block's text, or None when there is no block in Python or in no named language.

    Example:
        >>> fenced_code("Sure:\\n```python\\ndef f():\\n    return 1\\n```\\nIt returns 1.", "f")
        'def f():\\n    return 1'
    """
    blocks = [body for language, body in _FENCE.findall(text) if language.lower() in ("", "python", "python3", "py")]
    if not blocks:
        return None
    return next((block for block in blocks if name is not None and defines(block, name)), blocks[0])


def defines(code: str, name: str) -> bool:
    """Whether a text has a function or a class of that name at its left margin; the text need not be whole.

    Example:
        >>> defines("import math\\ndef area(r): return", "area"), defines("    def area(r): return", "area")
        (True, False)
    """
    return re.search(rf"^(?:async def|def|class) +{re.escape(name)}\b", code, re.MULTILINE) is not None


def complete_function(prompt: str, output: str, name: str) -> str:
    """Makes a program of a function's beginning and what a model wrote behind it, in whatever manner it did.

    An answer that begins with an indented line goes on where the prompt ends. Of any other, Markdown gives its code
    block, and text without a block counts as code. Code that defines the function itself
    stands for it, after the lines of the prompt before the function (imports, helpers); other code is its body and is
    cut where the body is over.

    Args:
        prompt: source text that ends in the function's signature and docstring.
        output: what the model generated.
        name: the function's name.

    Returns:
        The program's source text; it need not be valid.

    Example:
        >>> complete_function("import math\\ndef f(x):\\n", "    return x\\n\\nprint(f(1))", "f")
        'import math\\ndef f(x):\\n    return x\\n'
        >>> complete_function("import math\\ndef f(x):\\n", "```python\\ndef f(x):\\n    return x\\n```", "f")
        'import math\\n\\ndef f(x):\\n    return x'
    """
    # Behind a body that is over, a lone fence may end a block that nobody began.
    block = None if _INDENTED.match(output) else fenced_code(output, name)
    code = output if block is None else block
    if defines(code, name):
        return preamble(prompt, name) + "\n" + code
    return prompt + cut_at(code, COMPLETION_STOPS)


def preamble(prompt: str, name: str) -> str:
    """Returns the part of a prompt before the function that it asks for: imports and helpers.

    Example:
        >>> preamble("import math\\n\\ndef f(x):\\n    pass\\n", "f")
        'import math\\n\\n'
    """
    match = re.search(rf"^(?:@.*\n)*(?:async def|def) +{re.escape(name)}\b", prompt, re.MULTILINE)
    return prompt[: match.start()] if match else ""


def top_level_names(code: str) -> set[str]:
    """Returns the functions, classes and variables that a program defines at its top level, imports left out.

    Raises:
        SyntaxError: the text is no program.

    Example:
        >>> sorted(top_level_names("import re\\nR = 3\\ndef f(): pass\\nclass A: pass"))
        ['A', 'R', 'f']
    """
    found: set[str] = set()
    for node in _parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and _is_target(name)}
    return found


def used_names(code: str) -> set[str]:
    """Returns the names that a program reads.

    Raises:
        SyntaxError: the text is no program.

    Example:
        >>> sorted(used_names("x = f(1)\\nassert g(x) == 2"))
        ['f', 'g', 'x']
    """
    return {node.id for node in ast.walk(_parse(code)) if isinstance(node, ast.Name) and not _is_target(node)}


def import_lines(code: str) -> str:
    """Returns the import statements at the top level of a program, one a line.

    Raises:
        SyntaxError: the text is no program.

    Example:
        >>> import_lines("import re, math\\nx = 1\\nfrom a import b as c")
        'import re, math\\nfrom a import b as c'
    """
    nodes = [node for node in _parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, nodes))


def _is_target(name: ast.Name) -> bool:
    return not isinstance(name.ctx, ast.Load)


def _parse(code: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a newer Python says of somebody's old string escapes
        return ast.parse(code)
