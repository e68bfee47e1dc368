"""Writing so that nothing is lost: temporary file, fsync, re-read, rename."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Lets ``write`` fill a temporary file beside ``path`` and renames it into place once it is on disk.

    Args:
        path: the file to end up with; an earlier one stays intact until the rename.
        write: fills the file that it is given.

    Raises:
        OSError: the disk is full or the folder cannot be written; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        # safetensors writes files that only their owner can read; a shared run folder needs the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes plain types as indented JSON, atomically."""
    text = json.dumps(content, indent=2, sort_keys=False) + "\n"
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file atomically and checks what arrived: keys, shapes, dtypes and finite values.

    Args:
        path: the file.
        tensors: at least one; copied to contiguous CPU memory.

    Raises:
        ValueError: a tensor holds a NaN or an infinity, so that a broken run never replaces a good file.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    check_finite(ready, f"cannot write {path}")

    def write(temporary: Path) -> None:
        # One pair only: safetensors writes several in random order, and equal runs must give equal files.
        save_file(ready, temporary, metadata={"format": "pt"})
        back = read_tensors(temporary)
        for name, tensor in ready.items():
            assert torch.equal(back[name], tensor), f"{name} was not written correctly"

    write_atomically(path, write)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a whole safetensors file to the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or no safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error}); copy or save it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not valid JSON, or holds something else than an object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuses tensors with a NaN or an infinity.

    Raises:
        ValueError: names the first such tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{what}: {name} holds NaN or infinite values")


def claim_directory(directory: Path, names: list[str], overwrite: bool) -> None:
    """Refuses to replace files that are already there.

    Raises:
        FileExistsError: one of the names exists in the folder and ``overwrite`` is False.
    """
    existing = [name for name in names if (directory / name).exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{directory / existing[0]} exists; choose another folder or pass overwrite=True")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
