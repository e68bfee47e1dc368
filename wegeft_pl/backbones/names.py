"""What a backbone's name can mean: something shipped, a local folder, or an id on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from wegeft_pl.quickstart import bundled, is_bundled


def resolve(name: str, needs: str = "config.json") -> str:
    """Turns a user's name into what transformers loads: a folder that exists, or a hub id.

    Args:
        name: ``bundled:NAME``, a folder, or a hub id.
        needs: the file by which a folder is known to be of the right kind.

    Returns:
        The folder's absolute path, or the hub id unchanged.

    Raises:
        ValueError: the name can only be a folder, and there is none; or nothing of that name is bundled.
    """
    if is_bundled(name):
        return str(bundled(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / needs).is_file():
            raise ValueError(f"the folder {path} has no {needs}; give a Hugging Face folder or a hub id")
        return str(path.resolve())
    if looks_like_path(name):
        kind = "is a file" if path.is_file() else "does not exist"
        raise ValueError(f"the folder {name} {kind}; give a Hugging Face folder or a hub id")
    return name


def looks_like_path(name: str) -> bool:
    """True where a name cannot be a hub id (``name`` or ``owner/name``)."""
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or "\\" in name
