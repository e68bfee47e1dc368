"""Shapes of well-known models, shipped as small files, so that ``plan`` and the tests need neither weights nor network.

Each file in ``architectures/`` holds ``ids`` (the hub ids with these shapes) and ``config`` (what the model's
config.json says about shapes).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "architectures"


def names() -> list[str]:
    """The short names of all shipped architectures.

    Example:
        >>> "llama2_7b" in names()
        True
    """
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def find(name: str) -> dict[str, Any] | None:
    """The shipped config of a model.

    Args:
        name: a short name (``llama2_7b``) or a hub id (``meta-llama/Llama-2-7b-hf``).

    Returns:
        The config's fields, ``model_type`` among them, or None where no shipped file is of that name.

    Example:
        >>> find("meta-llama/Llama-2-7b-hf")["hidden_size"]
        4096
    """
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if name == path.stem or name.lower() in (known.lower() for known in content["ids"]):
            return dict(content["config"])
    return None
