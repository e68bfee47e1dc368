"""The hub without a network: an answer at once instead of a minute of retries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds in which the hub answers anything, where it can be reached at all.
PATIENCE = 10.0


@contextmanager
def no_vain_retries(source: str) -> Iterator[None]:
    """Works offline inside where the hub does not answer: what is in the cache loads, what is not fails at once.

    The library itself tries again for about a minute, file by file.

    Args:
        source: what is loaded inside; for a local folder nobody is asked.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not (Path(source).is_dir() or _answers(constants.ENDPOINT))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def first_line(error: BaseException) -> str:
    """What an error says first, at most 300 characters: the hub's own errors go on for many lines.

    Example:
        >>> first_line(OSError("not found\\nRequest ID: 7")), first_line(TimeoutError())
        ('not found', 'TimeoutError')
    """
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def _answers(endpoint: str) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=PATIENCE)
    except Exception:  # the client behind it, and so the class, is another one from version to version
        return False
    return True
