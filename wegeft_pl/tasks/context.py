"""How many tokens a base was built for: a warning beyond that, and a plain error where its table of positions ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from wegeft_pl.backbones import packing

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ContextCheck:
    """Warns once of a sequence that is longer than the base was built for."""

    def __init__(self) -> None:
        self._warned = False

    def __call__(self, context: int | None, batch: Mapping[str, Any]) -> None:
        """Looks at a batch.

        Args:
            context: how many tokens the base was built for; None: not known.
            batch: ``input_ids`` and ``attention_mask`` (B, T), and ``position_ids`` where rows hold several samples.
        """
        tokens = batch["input_ids"].shape[1]
        if self._warned or context is None or tokens <= context:
            return
        if packing.is_packed(batch):  # a row may be longer than any sample in it
            tokens = int((batch["position_ids"] * batch["attention_mask"]).max()) + 1
        if tokens > context:
            self._warned = True
            rank_zero_warn(f"a sequence has {tokens} tokens and the base was built for {context}; lower "
                           "--data.max_length")  # fmt: skip


@contextmanager
def fitting(model: PreTrainedModel, context: int | None, ids_BT: Tensor) -> Iterator[None]:  # noqa: N803
    """Explains the lookup that fails where a base has a table of positions.

    Args:
        model: the base.
        context: how many tokens it was built for.
        ids_BT: (B, T) the tokens.

    Raises:
        ValueError: they do not fit.
    """
    try:
        yield
    except IndexError as error:
        raise ValueError(
            f"a sequence of {ids_BT.shape[1]} tokens, the largest id {int(ids_BT.max())}, does not fit the base's "
            f"{context} positions and {model.config.vocab_size} ids; lower --data.max_length or "
            "--model.max_new_tokens, or give the tokenizer that belongs to the base"
        ) from error
