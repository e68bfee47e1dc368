"""How sizes are written for people; files hold the plain numbers."""

from __future__ import annotations


def bytes_text(count: float | None) -> str:
    """Writes a number of bytes with a binary unit.

    Example:
        >>> bytes_text(71168), bytes_text(13476839424), bytes_text(None)
        ('69.5 KiB', '12.6 GiB', 'unknown')
    """
    if count is None:
        return "unknown"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
