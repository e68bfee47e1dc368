"""Hugging Face models with a classifier, for text and for images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from wegeft_pl.adapter.owner import OWNER
from wegeft_pl.adapter.quantized import SCHEMES
from wegeft_pl.backbones import architectures, huggingface, quantized
from wegeft_pl.backbones.fresh import HeadInit, run_seed, start_at_zero
from wegeft_pl.backbones.hub import no_vain_retries
from wegeft_pl.backbones.huggingface import one_line_errors
from wegeft_pl.backbones.names import resolve

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Kind = Literal["text", "image"]


def load(
    name: str,
    kind: Kind,
    num_classes: int,
    *,
    class_names: Sequence[str] | None = None,
    head_init: HeadInit = "library",
    drop_path: float = 0.0,
    dtype: str = "auto",
    meta: bool = False,
    quantize: str | None = None,
) -> PreTrainedModel:
    """Loads a model with a classifier, or builds it on the meta device; a classifier of another size starts anew.

    Args:
        name: ``bundled:NAME``, a folder, or a hub id.
        kind: what it classifies.
        num_classes: C; 1 for a regression.
        class_names: C names for the config, or None.
        head_init: how a new classifier starts; see :mod:`wegeft_pl.backbones.fresh`.
        drop_path: stochastic depth of models whose config has it.
        dtype: as in :func:`huggingface.load`.
        meta: shapes only.
        quantize: as in :func:`huggingface.load`; the classifier stays as it is.

    Raises:
        ValueError: there is no such model, it has no classifier in transformers, its files lack more than the
            classifier, or it takes no drop_path.
    """
    import transformers

    auto: Any = transformers.AutoModelForSequenceClassification
    mapping: Any = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if kind == "image":
        auto = transformers.AutoModelForImageClassification
        mapping = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    chosen = huggingface.dtype_of(dtype)
    source = name if name in architectures.names() and meta else resolve(name)
    with one_line_errors("backbone", name, source), no_vain_retries(source):
        config = huggingface.read_config(name)
    if type(config) not in mapping:
        raise ValueError(f"backbone: {name!r} is a {config.model_type} model, which transformers has no {kind} "
                         "classifier for; such as RoBERTa or Llama for text, ViT or ConvNeXt for images")  # fmt: skip
    stored = quantized.scheme_in(config)
    if quantize is not None and stored is not None:
        raise ValueError(f"quantize: the weights of {name!r} are quantised already ({stored}); leave quantize out")
    _settle(config, name, num_classes, class_names, drop_path)
    if meta:
        own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        with one_line_errors("backbone", name, source), torch.device("meta"):
            shapes: PreTrainedModel = auto.from_config(config, dtype=chosen or own)
        if quantize is not None or stored in SCHEMES:
            quantized.plan(shapes, quantize or str(stored))
        return shapes
    arguments: dict[str, Any] = {"dtype": chosen or "auto", "config": config}
    if quantize is not None:
        arguments |= quantized.loading_arguments(quantize, chosen)
    with one_line_errors("backbone", name, source), no_vain_retries(source), run_seed(), _no_report():
        model, info = auto.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True, **arguments)
        _check_complete(model, name, info)
        quantized.settle(model)
    loaded: PreTrainedModel = model
    if head_init == "zero":
        start_at_zero(loaded, heads_of(loaded))
    return loaded


def heads_of(model: nn.Module) -> list[str]:
    """Names of what lies beside the bare model and has parameters: its classifier, and layers before it."""
    from transformers import PreTrainedModel

    assert isinstance(model, PreTrainedModel)
    return [
        name
        for name, child in model.named_children()
        if name not in (model.base_model_prefix, OWNER) and next(child.parameters(), None) is not None
    ]


def use_pad_id(model: PreTrainedModel, pad_id: int) -> None:
    """Tells a model which id pads: decoders classify by the last token that is not padding."""
    model.config.pad_token_id = pad_id


def has_token_types(model: nn.Module) -> bool:
    """Whether a model tells the texts of a pair apart by token types."""
    from transformers import PreTrainedModel

    assert isinstance(model, PreTrainedModel)
    return bool(model.config.to_dict().get("type_vocab_size"))


def logits_of(model: nn.Module, **inputs: Any) -> torch.Tensor:
    """The logits (B, C) of a transformers model with a classifier."""
    logits: torch.Tensor = model(**inputs).logits
    return logits


def _settle(
    config: PretrainedConfig, name: str, num_classes: int, class_names: Sequence[str] | None, drop_path: float
) -> None:
    config.num_labels = num_classes
    config.problem_type = "regression" if num_classes == 1 else "single_label_classification"
    if class_names is not None:
        config.id2label = dict(enumerate(class_names))
        config.label2id = {label: number for number, label in enumerate(class_names)}
    if drop_path:
        if "drop_path_rate" not in config.to_dict():
            raise ValueError(f"backbone: {name!r} ({config.model_type}) takes no drop_path; leave it out")
        config.drop_path_rate = drop_path


@contextmanager
def _no_report() -> Iterator[None]:
    """Silences transformers' table of what a file lacks: the classifier, as it must, and else there is an error."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_complete(model: PreTrainedModel, name: str, info: dict[str, Any]) -> None:
    heads = heads_of(model)
    drawn = [*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])]
    lost = sorted(key for key in drawn if key.split(".")[0] not in heads)
    if lost:
        # transformers draws them at random, and frozen they would stay so.
        raise ValueError(
            f"backbone: the files of {name!r} do not give {lost[0]} ({len(lost)} tensors besides the classifier); give "
            "a model that was saved whole"
        )
