"""The files behind a Hugging Face backbone, for building it on the meta device and reading them part by part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wegeft_pl.backbones.hub import first_line
from wegeft_pl.backbones.names import resolve

#: What is downloaded of a model: safetensors, configs, and whatever form a tokenizer has.
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]


def weight_folder(name: str) -> Path:
    """Finds the folder of a backbone's files, downloading its safetensors from the hub where they are not there yet.

    Args:
        name: ``bundled:NAME``, a folder, or a hub id.

    Raises:
        ValueError: there is nothing of that name, or the hub cannot be reached.
    """
    source = resolve(name)
    return Path(source) if Path(source).is_dir() else _download(source)


def name_prefix(model: nn.Module) -> str:
    """The first part of names that a model with a head has and its bare decoder has not, such as ``model``."""
    from transformers import PreTrainedModel

    assert isinstance(model, PreTrainedModel)
    return model.base_model_prefix


def finish_on_device(model: nn.Module, device: torch.device, folder: Path) -> None:
    """Does what ``from_pretrained`` does beside reading weights: computed buffers, and the settings of generation.

    Args:
        model: a transformers model built on the meta device; its parameters may be sharded, and have values by now.
        device: where buffers go.
        folder: of its files.

    Raises:
        ValueError: a tensor is still without values, so that the model must be loaded as a whole.
    """
    from transformers import GenerationConfig, PreTrainedModel

    assert isinstance(model, PreTrainedModel)
    for module in model.modules():
        empty = {name: buffer for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        if not empty:
            continue
        for name, buffer in empty.items():
            # Not persistent, so in no file (rotary frequencies): the library computes it from the config.
            persistent = name not in module._non_persistent_buffers_set
            module.register_buffer(name, torch.full_like(buffer, float("nan"), device=device), persistent)
        with torch.no_grad(), _out_of_reach(module, set(empty)):
            model._init_weights(module)  # the library's own way to fill such buffers; it has no public one
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if not _has_values(tensor)]
    if left:
        raise ValueError(f"the files of {folder} do not give {left[0]} ({len(left)} tensors without values)")
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)


@contextmanager
def _out_of_reach(module: nn.Module, wanted: set[str]) -> Iterator[None]:
    """Puts stand-ins in the place of a module's own tensors but the wanted ones: what they hold would be drawn anew.

    The embedding of a Gemma has a computed buffer beside its weight.
    """
    tables: list[dict[str, Any]] = [module._parameters, module._buffers]
    kept = [{name: tensor for name, tensor in table.items() if name not in wanted} for table in tables]
    for table, own in zip(tables, kept, strict=True):
        for name, tensor in own.items():
            if tensor is not None:
                stand_in = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                table[name] = nn.Parameter(stand_in, False) if isinstance(tensor, nn.Parameter) else stand_in
    try:
        yield
    finally:
        for table, own in zip(tables, kept, strict=True):
            table.update(own)


def _has_values(tensor: torch.Tensor) -> bool:
    if tensor.is_meta:
        return False
    # Only buffers were filled with a mark; a parameter's values are the reader's affair.
    return isinstance(tensor, nn.Parameter) or not tensor.is_floating_point() or not bool(tensor.isnan().any())


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"backbone: cannot load {name!r}: {first_line(error)} (check the id's spelling, the network and the "
            "licence, or give a local folder)"
        ) from error
