"""What ``merge`` and ``export`` share: an adapter folder, and its base loaded with the adapter in place."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from wegeft_pl.adapter import Adapter, files
from wegeft_pl.backbones import huggingface

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--adapter``, ``--base`` and ``--output``."""
    parser.add_argument("--adapter", type=Path, required=True, help="adapter folder of a run, such as RUN/adapter")
    parser.add_argument("--base", help="the base model: folder or hub id; default: the one that the adapter names")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it must not exist or be empty")


def find_base(adapter_folder: Path, base: str | None) -> str:
    """Decides which base to load.

    Raises:
        ValueError: none was given and the adapter names none.
        FileNotFoundError: there is no adapter folder.
    """
    if not adapter_folder.is_dir():
        raise FileNotFoundError(f"no adapter folder {adapter_folder}")
    found = base or files.base_name_of(adapter_folder)
    if found is None:
        raise ValueError(f"{adapter_folder} does not name its base; give it with --base")
    return found


def load_with_adapter(adapter_folder: Path, base: str, dtype: str = "auto") -> tuple[PreTrainedModel, Adapter]:
    """Loads the base and puts the adapter on it.

    Raises:
        ValueError: the base cannot be loaded or is another one than the adapter's.
    """
    files.read_description(adapter_folder)  # a broken adapter is refused before gigabytes are loaded
    model = huggingface.load(base, causal_lm=True, dtype=dtype)
    return model, files.load_adapter(model, adapter_folder)


def claim_output(folder: Path) -> None:
    """Refuses a folder that already holds something, before a model is loaded.

    Raises:
        ValueError: the folder is not empty, or is a mount point, which nothing can be renamed to.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; choose another --output")
    if folder.is_mount():
        raise ValueError(f"{folder} is a mount point; choose a folder inside it as --output")
