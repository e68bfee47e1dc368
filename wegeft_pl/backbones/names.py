"""What a backbone's name can mean: something shipped, a local folder, or an id on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from wegeft_pl.quickstart import bundled, is_bundled


def resolve(name: str) -> str:
    """Turns a user's name into what transformers loads: a folder that exists, or a hub id.

    Args:
        name: ``bundled:NAME``, a folder, or a hub id.

    Returns:
        The folder's absolute path, or the hub id unchanged.

    Raises:
        ValueError: the name can only be a folder, and there is none; or nothing of that name is bundled.
    """
    if is_bundled(name):
        return str(bundled(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"{path} has no config.json, so it is not a Hugging Face model folder")
        return str(path.resolve())
    if looks_like_path(name):
        kind = "is a file" if path.is_file() else "does not exist"
        raise ValueError(f"backbone: the folder {name} {kind}; give a Hugging Face model folder or a hub id")
    return name


def looks_like_path(name: str) -> bool:
    """True where a name cannot be a hub id (``name`` or ``owner/name``)."""
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or "\\" in name
