"""Names of what is shipped inside the package: ``bundled:word_llama`` and ``bundled:word_problems``."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

PREFIX = "bundled:"


def is_bundled(name: str) -> bool:
    """True for names that start with ``bundled:``, which no hub id and hardly any path does."""
    return name.startswith(PREFIX)


def bundled(name: str) -> Path:
    """Finds a folder that the package ships.

    Args:
        name: such as ``bundled:word_llama``.

    Returns:
        The folder inside the installed package.

    Raises:
        ValueError: nothing of that name is shipped.

    Example:
        >>> bundled("bundled:word_problems").name
        'word_problems'
    """
    room = Path(__file__).parent
    known = sorted(path.name for path in room.iterdir() if path.is_dir() and not path.name.startswith("_"))
    wanted = name.removeprefix(PREFIX)
    if wanted not in known:
        close = get_close_matches(wanted, known, n=1)
        hint = f"; did you mean {PREFIX + close[0]!r}?" if close else ""
        raise ValueError(f"nothing called {name!r} is shipped, only {', '.join(PREFIX + k for k in known)}{hint}")
    return room / wanted
