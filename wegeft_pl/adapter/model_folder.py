"""What lies beside the weights in a model's folder: config, tokenizer, index."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wegeft_pl.adapter.storage import read_json, write_json
from wegeft_pl.adapter.weight_files import INDEX, SINGLE

#: Files that hold weights, in whatever format: a copy of the base's would be taken for the merged ones.
WEIGHTS = ("*.safetensors", "*.index.json", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx")
CONFIG = "config.json"
#: As large as a file of weights gets.
FILE_BYTES = 5 * 10**9


def copy_companions(base: Path, output: Path) -> None:
    """Copies every file of a model's folder that holds no weights; subfolders and hidden files stay behind.

    Raises:
        OSError: a file cannot be read or written.
    """
    for path in sorted(base.iterdir()):
        is_weights = any(fnmatch.fnmatch(path.name, pattern) for pattern in WEIGHTS)
        if path.is_file() and not is_weights and not path.name.startswith("."):
            shutil.copyfile(path, output / path.name)


def set_config_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Lets config.json, and the configs inside it, name another dtype, so that the model is loaded in it."""
    if not (folder / CONFIG).is_file():
        return
    config, name = read_json(folder / CONFIG), str(dtype).removeprefix("torch.")
    config.setdefault("torch_dtype" if "torch_dtype" in config else "dtype", name)
    write_json(folder / CONFIG, _with_dtype(config, name))


def file_names(sizes: Mapping[str, int]) -> dict[str, str]:
    """Spreads tensors over files of at most :data:`FILE_BYTES`, where one tensor alone is not larger.

    Args:
        sizes: bytes by tensor name.

    Returns:
        File name by tensor name.

    Example:
        >>> file_names({"a": 3 * 10**9, "b": 3 * 10**9})
        {'a': 'model-00001-of-00002.safetensors', 'b': 'model-00002-of-00002.safetensors'}
    """
    numbers, number, filled = {}, 0, FILE_BYTES
    for name, size in sizes.items():
        if number == 0 or filled + size > FILE_BYTES:
            number, filled = number + 1, 0
        numbers[name], filled = number, filled + size
    if number <= 1:
        return dict.fromkeys(numbers, SINGLE)
    return {name: f"model-{own:05d}-of-{number:05d}.safetensors" for name, own in numbers.items()}


def write_index(folder: Path, weight_map: Mapping[str, str], total_size: int, base: Path | None = None) -> None:
    """Writes the index of weights that lie in several files.

    Args:
        folder: of the files.
        weight_map: file name by tensor name.
        total_size: bytes of all tensors.
        base: a folder whose index has further metadata to keep, or None.
    """
    metadata = {} if base is None else read_json(base / INDEX).get("metadata", {})
    write_json(folder / INDEX, {"metadata": metadata | {"total_size": total_size}, "weight_map": dict(weight_map)})


def _with_dtype(config: dict[str, Any], name: str) -> dict[str, Any]:
    changed = {key: _with_dtype(value, name) if isinstance(value, dict) else value for key, value in config.items()}
    return changed | {key: name for key in ("dtype", "torch_dtype") if isinstance(config.get(key), str)}
