"""Which file of a model's folder is broken: the libraries say what is wrong with it but not where it is."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open


def weights(source: str) -> Path | None:
    """Finds the first safetensors file that cannot be opened.

    Args:
        source: a folder, or a hub id whose files were downloaded.

    Returns:
        Its path, or None where all can be opened.
    """
    for path in _files(source, "*.safetensors"):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError:
            return path
    return None


def json_file(source: str) -> Path | None:
    """Finds the first JSON file that is not valid JSON; see :func:`weights`."""
    for path in _files(source, "*.json"):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return path
    return None


def way_out(source: str) -> str:
    """What to do about a broken file: a downloaded one must go before it is downloaded again."""
    if Path(source).is_dir():
        return "copy or download the folder again"
    return "delete it from the hub's cache (`hf cache` shows where) and download it again"


def _files(source: str, pattern: str) -> list[Path]:
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source, "config.json")
        if not isinstance(cached, str):
            return []
        folder = Path(cached).parent
    return sorted(folder.glob(pattern))
