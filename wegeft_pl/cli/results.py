"""What a run folder holds that must not be written over."""

from __future__ import annotations

import json
import re
from pathlib import Path

#: What starting over writes again as it was: nothing is lost with it.
_AGAIN = re.compile(r"config(_\w+)?\.yaml|predictions/before\.jsonl")


def result_in(folder: Path) -> str | None:
    """Names something in a run folder that starting over would lose, or None.

    Nothing is lost with configs, logs, what a killed process left half-written under a hidden name, the report of a run
    that failed before it had a score, and what the untrained model scored and predicted.

    Args:
        folder: a run folder; it need not exist.

    Returns:
        The path of the first such file, relative to the folder.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() or name.parts[0] == "tensorboard" or any(part.startswith(".") for part in name.parts):
            continue
        again = _AGAIN.fullmatch(name.as_posix()) or (name.as_posix() == "run.json" and _is_failure(path))
        if not again:
            return name.as_posix()
    return None


def _is_failure(report: Path) -> bool:
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and "error" in content and set(content.get("metrics", {})) <= {"before"}
