"""What ``merge`` and ``export`` share: an adapter folder, and its base loaded with the adapter in place."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from wegeft_pl.adapter import Adapter, files
from wegeft_pl.adapter.match_weights import match_weights
from wegeft_pl.adapter.weight_files import WeightFiles, read_rows
from wegeft_pl.backbones import huggingface, quantized, weights
from wegeft_pl.cli.base_kind import BaseKind, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What ``--base`` may be instead of a place, for an adapter that was trained on quantised weights.
ORIGINAL, DEQUANTIZED = "original", "dequantized"


@dataclass(frozen=True)
class Base:
    """The weights that an adapter is merged into, or that its factors are generated from.

    Args:
        name: folder or hub id.
        weights: ``"original"`` or ``"dequantized"`` where the adapter was trained on quantised weights, else None.
        scheme: how they were quantised; None where they were not.
        file: local weights of a timm model, where they are others than the adapter names.
    """

    name: str
    weights: str | None = None
    scheme: str | None = None
    file: str | None = None

    def kind(self, adapter_folder: Path) -> BaseKind:
        """What model it is; see :func:`kind_of`."""
        return kind_of(adapter_folder, self.name, self.file)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--adapter``, ``--base``, ``--base_name``, ``--weights`` and ``--output``."""
    parser.add_argument("--adapter", type=Path, required=True, help="adapter folder of a run, such as RUN/adapter")
    parser.add_argument(
        "--base",
        help="the base model: folder or hub id (default: the one that the adapter names); for an adapter trained on a "
        "quantised base, which weights to use: original (full precision) or dequantized (what was trained)",
    )
    parser.add_argument("--base_name", help="folder or hub id where --base original or dequantized finds the base now")
    parser.add_argument(
        "--weights",
        help="of an image model from timm: the file or folder of its weights (default: what the adapter names)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it must not exist or be empty")


def find_base(adapter_folder: Path, base: str | None, base_name: str | None = None, file: str | None = None) -> Base:
    """Decides which base to load, and which of its weights.

    Args:
        adapter_folder: a saved adapter.
        base: ``--base``.
        base_name: ``--base_name``.
        file: ``--weights``.

    Raises:
        ValueError: no base was given and the adapter names none, it was given twice, or the adapter was trained on
            quantised weights and it was not said which weights to use.
        FileNotFoundError: there is no adapter folder.
    """
    if not adapter_folder.is_dir():
        raise FileNotFoundError(f"no adapter folder {adapter_folder}")
    chosen = base if base in (ORIGINAL, DEQUANTIZED) else None
    place = base if chosen is None else None
    if place is not None and base_name is not None:
        raise ValueError(f"the base is given twice, --base {place} and --base_name {base_name}; keep one")
    scheme = files.read_description(adapter_folder)[1].quantization
    name = place or base_name or files.base_name_of(adapter_folder)
    if scheme is None and chosen == DEQUANTIZED:
        raise ValueError(f"{adapter_folder} was trained on weights that are not quantised; leave --base {base} out")
    if scheme is not None and chosen is None:
        where = f" --base_name {place}" if place is not None else ""
        raise ValueError(
            f"{adapter_folder} was trained on weights quantised by {scheme}; choose which ones to use: --base original"
            f"{where} (full precision; the result differs from what was trained by the quantisation error) or --base "
            f"dequantized{where} (what was trained, rounded to the output's dtype)"
        )
    if name is None:
        option = "--base" if chosen is None else "--base_name"
        raise ValueError(f"{adapter_folder} does not name its base; give it with {option}")
    if chosen == ORIGINAL and scheme is not None and huggingface.quantization(name) is not None:
        raise ValueError(
            f"{name} holds only quantised weights; give the full-precision model with --base_name, or use --base "
            "dequantized"
        )
    return Base(name, chosen if scheme is not None else None, scheme, file)


def load_with_adapter(adapter_folder: Path, base: Base, dtype: str = "auto") -> tuple[nn.Module, Adapter]:
    """Loads the base, its weights dequantised where that was chosen, and puts the adapter on it.

    Raises:
        ValueError: the base cannot be loaded or is another one than the adapter's.
    """
    files.read_description(adapter_folder)  # a broken adapter is refused before gigabytes are loaded
    kind = base.kind(adapter_folder)
    model = _dequantized(kind, base, dtype) if base.weights == DEQUANTIZED else kind.load(dtype)
    return model, files.load_adapter(model, adapter_folder)


def quantization_errors(model: nn.Module, adapter: Adapter, base: Base) -> dict[str, float] | None:
    """How far dequantised weights are from the original ones, per edited layer.

    Args:
        model: with dequantised weights, the adapter not merged yet.
        adapter: on it.
        base: where the original ones lie.

    Returns:
        Norm of the difference over norm of the original weight (Frobenius), by layer; None where the base holds only
        quantised weights, or files of other names than the model.
    """
    folder = weights.weight_folder(base.name)
    if huggingface.quantization(base.name) is not None or not WeightFiles.are_in(folder):
        return None
    new = {name for name, _ in adapter.trained.named_parameters()}
    entries = match_weights(model, WeightFiles(folder), weights.name_prefix(model), may_lack=new)
    if entries is None:
        return None
    errors = {}
    for site in adapter.sites:
        entry = entries[site.place.tensor]
        original = read_rows(entry, 0, entry.shape[0]).float()
        difference = site.module.get_parameter(site.place.parameter).detach().float() - original
        errors[site.name] = float(difference.norm() / original.norm().clamp(min=torch.finfo(torch.float32).tiny))
    return errors


def _dequantized(kind: BaseKind, base: Base, dtype: str) -> nn.Module:
    stored = huggingface.quantization(base.name)
    # Quantised from the checkpoint's own dtype whatever the output's will be, as in training.
    model = kind.load("auto", quantize=None if stored is not None else base.scheme)
    quantized.dequantize(cast("PreTrainedModel", model), None if dtype == "auto" else huggingface.DTYPES[dtype])
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.cpu()  # libraries quantise on a GPU where there is one
    return model


def claim_output(folder: Path) -> None:
    """Refuses a folder that already holds something, before a model is loaded.

    Raises:
        ValueError: the folder is not empty, or is a mount point, which nothing can be renamed to.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; choose another --output")
    if folder.is_mount():
        raise ValueError(f"{folder} is a mount point; choose a folder inside it as --output")
