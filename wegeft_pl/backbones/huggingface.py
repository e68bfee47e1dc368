"""Backbones from the Hugging Face hub or a local folder, and their tokenizers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wegeft_pl.backbones import architectures
from wegeft_pl.backbones.names import resolve

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

#: What ``dtype`` may be; "auto" keeps the checkpoint's own.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads a tokenizer.

    Args:
        name: ``bundled:NAME``, a folder, or a hub id.

    Raises:
        ValueError: there is none of that name, or the hub cannot be reached.
    """
    from transformers import AutoTokenizer

    with _one_line_errors("tokenizer", name):
        return AutoTokenizer.from_pretrained(resolve(name, needs="tokenizer_config.json"))


def load(name: str, *, causal_lm: bool, dtype: str = "auto", meta: bool = False) -> PreTrainedModel:
    """Loads a model with its weights, or builds it on the meta device without any.

    Args:
        name: ``bundled:NAME``, a folder, a hub id; with ``meta`` also the short name of a shipped architecture.
        causal_lm: with a language-model head, or the bare encoder or decoder.
        dtype: ``"auto"`` (the checkpoint's), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        meta: build shapes only. A folder with nothing but config.json suffices; hub ids of shipped architectures need
            no network, others download their config alone.

    Returns:
        The model, in eval mode as transformers gives it.

    Raises:
        ValueError: the name or dtype is unknown, files are missing or broken, or the hub cannot be reached.
    """
    import transformers

    auto = transformers.AutoModelForCausalLM if causal_lm else transformers.AutoModel
    chosen = _dtype(dtype)
    with _one_line_errors("backbone", name):
        if meta:
            config = _config(name)
            own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
            with torch.device("meta"):
                return auto.from_config(config, dtype=chosen or own)
        if name in architectures.names():
            raise ValueError(f"backbone: {name!r} is a shipped architecture without weights; give a hub id or a folder")
        return auto.from_pretrained(resolve(name), dtype=chosen or "auto")


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Makes a model recompute activations in the backward pass.

    Non-reentrant: reentrant checkpointing gives no gradients behind frozen embeddings.
    """
    # Renamed within transformers 5; the old name warns where the new one exists.
    renamed = getattr(model, "activation_checkpointing_enable", None)
    (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})


def save(model: nn.Module, directory: Path, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Writes a folder that ``from_pretrained`` loads: safetensors, configs and the tokenizer.

    Args:
        model: a transformers model without an attached adapter.
        directory: made where it does not exist.
        tokenizer: saved beside the model, or None.
    """
    from transformers import PreTrainedModel

    assert isinstance(model, PreTrainedModel)
    # Recomputed by from_pretrained; a stale name would point people at the base.
    model.save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)


def _dtype(dtype: str) -> torch.dtype | None:
    if dtype == "auto":
        return None
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype!r} is not one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _config(name: str) -> PretrainedConfig:
    from transformers import AutoConfig

    shipped = architectures.find(name) if not Path(name).is_dir() else None
    if shipped is not None:
        fields: dict[str, Any] = dict(shipped)
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    return AutoConfig.from_pretrained(resolve(name))


@contextmanager
def _one_line_errors(what: str, name: str) -> Iterator[None]:
    """Turns the hub's long messages into one that says what to do, and silences its retry chatter."""
    from huggingface_hub.utils import logging as hub_logging

    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    except OSError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{what}: cannot load {name!r}: {first[:300]} (no such folder here; for a hub id, check the "
            "spelling, the network and the licence, or give a local folder)"
        ) from error
    finally:
        hub_logging.set_verbosity(before)
