"""Backbones from the Hugging Face hub or a local folder, and their tokenizers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from wegeft_pl.backbones import architectures, broken
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
        ValueError: there is none of that name, its files are broken, or the hub cannot be reached.
    """
    from transformers import AutoTokenizer

    source = resolve(name, needs="tokenizer_config.json")
    with _one_line_errors("tokenizer", name, source):
        try:
            return AutoTokenizer.from_pretrained(source)
        except Exception as error:
            # The tokenizers library raises plain Exception, and transformers a KeyError, on a tokenizer.json of another
            # layout.
            if type(error) not in (Exception, KeyError):
                raise
            raise ValueError(f"tokenizer.json has not the layout of a tokenizer ({error})") from error


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
        ValueError: the name or dtype is unknown, the model is of another kind, files are missing or broken, or the hub
            cannot be reached.
    """
    import transformers

    auto = transformers.AutoModelForCausalLM if causal_lm else transformers.AutoModel
    chosen = _dtype(dtype)
    if name in architectures.names() and not meta:
        raise ValueError(f"backbone: {name!r} is a shipped architecture without weights; give a hub id or a folder")
    source = name if name in architectures.names() else resolve(name)
    with _one_line_errors("backbone", name, source):
        config = _config(name)
    if causal_lm and type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"backbone: {name!r} is a {config.model_type} model, but a causal language model is needed, such as Llama, "
            "Qwen or GPT-2"
        )
    with _one_line_errors("backbone", name, source):
        if meta:
            own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
            with torch.device("meta"):
                return auto.from_config(config, dtype=chosen or own)
        loaded: Any = auto.from_pretrained(source, dtype=chosen or "auto", output_loading_info=True)
        model, info = loaded
        missing = sorted(info["missing_keys"])
        if missing and causal_lm:
            # transformers draws them at random. (Bare encoders lack a pooler that their checkpoints never had.)
            raise ValueError(
                f"backbone: the files of {name!r} lack {missing[0]} ({len(missing)} missing tensors), which its config "
                "asks for; download or save the model again"
            )
        return model


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

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    from transformers import PreTrainedModel

    assert isinstance(model, PreTrainedModel)
    try:
        model.save_pretrained(directory)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(f"cannot write the weights to {directory}: {error}") from error
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
def _one_line_errors(what: str, name: str, source: str) -> Iterator[None]:
    """Turns the libraries' messages into one line that names the file and says what to do, and silences retry chatter.

    Args:
        what: ``backbone`` or ``tokenizer``.
        name: what the user wrote.
        source: what it resolved to.
    """
    from huggingface_hub.errors import StrictDataclassError
    from huggingface_hub.utils import logging as hub_logging

    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    except SafetensorError as error:
        file = broken.weights(source) or name
        raise ValueError(f"{what}: {file} is cut or broken ({error}); {broken.way_out(source)}") from error
    except json.JSONDecodeError as error:
        file = broken.json_file(source) or name
        raise ValueError(f"{what}: {file} is not valid JSON ({error}); {broken.way_out(source)}") from error
    except OSError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "no such folder here; check a hub id's spelling, the network and the licence, or give a local folder"
        hint = broken.way_out(source) if Path(source).is_dir() else hint
        raise ValueError(f"{what}: cannot load {name!r}: {first[:300]} ({hint})") from error
    except (ValueError, StrictDataclassError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{what}: cannot load {name!r}: {text[:300]}") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"{what}: the weights of {name!r} have other shapes than its config.json says; {broken.way_out(source)}"
        ) from error
    finally:
        hub_logging.set_verbosity(before)
