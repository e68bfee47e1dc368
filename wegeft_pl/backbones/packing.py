"""Several samples in one row of a batch: what a model is called with, and whether it keeps them apart.

Shapes: B rows, T tokens, S tokens that are no padding, N samples, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wegeft_pl.backbones.positions import only_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Kinds of layers that carry a state along the row, past any attention mask.
_CARRIES_ON = ("linear_attention", "conv", "hybrid", "hybrid_sliding", "mamba", "recurrent")

_WAY_OUT = "set data.packing to false (data.group_by_length saves padding as well)"


def is_packed(batch: Mapping[str, Any]) -> bool:
    """Whether rows of a batch hold several samples each: then it has ``position_ids`` that start anew with each."""
    return "position_ids" in batch


def model_inputs(model: PreTrainedModel, batch: Mapping[str, Any], mask_BT: Tensor) -> tuple[dict[str, Any], Tensor]:  # noqa: N803
    """Makes the arguments of a model's forward pass for a batch, packed or not.

    For packed rows transformers builds a mask of blocks on the diagonal out of ``position_ids`` that start anew, where
    ``attention_mask`` is None; sliding windows and chunks are counted inside of each block. Padding behind a row's last
    sample is a block of its own. Flash attention knows such blocks in a single row only, so there all tokens that are
    no padding stand in one row.

    Args:
        model: a causal language model.
        batch: ``input_ids`` and ``attention_mask`` (B, T) int64; packed ones have ``position_ids`` (B, T) int64.
        mask_BT: (B, T) bool, the positions whose logits are wanted.

    Returns:
        The arguments, and the positions as they lie in the rows that the model gets: (B, T), or (1, S).
    """
    if not is_packed(batch):
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}, mask_BT
    ids, positions = batch["input_ids"], batch["position_ids"]
    if "flash" in str(model.config._attn_implementation):
        real_BT = batch["attention_mask"].bool()  # noqa: N806
        ids, positions, mask_BT = (tensor[real_BT][None] for tensor in (ids, positions, mask_BT))  # noqa: N806
    return {"input_ids": ids, "position_ids": positions, "attention_mask": None}, mask_BT


def check_can_pack(model: PreTrainedModel) -> None:
    """Refuses models that cannot keep samples of one row apart, by what their class and config say.

    Raises:
        ValueError: names the architecture and the reason.
    """
    config: Any = model.config
    carrying = sorted(set(getattr(config, "layer_types", None) or ()) & set(_CARRIES_ON))  # not every config has them
    if model._is_stateful or carrying:
        kind = f"layers of kind {', '.join(carrying)}" if carrying else "a recurrent state"
        raise ValueError(
            f"data.packing: {config.model_type} has {kind}, which carry one sample into the next; {_WAY_OUT}"
        )
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        raise ValueError(
            f"data.packing: {config.model_type} takes no position_ids, so packed samples would attend to each other; "
            f"{_WAY_OUT}"
        )


@torch.no_grad()
def measure_leak(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Changes every second sample of each row, and looks whether the others' logits move.

    Some architectures take ``position_ids`` and build their mask without them; no error says so. Two forward passes of
    the batch's own shape, in eval mode; all processes of a sharded model must call it together.

    Args:
        model: a causal language model.
        batch: a packed batch.

    Returns:
        (2,) float32: the largest change of a logit in samples that stayed as they were, and in those that changed;
        zeros where no row holds two samples.
    """
    real_BT = batch["attention_mask"].bool()  # noqa: N806
    number_BT = real_BT * ((batch["position_ids"] == 0) & real_BT).long().cumsum(1)  # noqa: N806
    last_BT = real_BT & (number_BT != F.pad(number_BT[:, 1:], (0, 1)))  # noqa: N806
    changed_BT = real_BT & (number_BT % 2 == 1) & (number_BT.amax(1, keepdim=True) > 1)  # noqa: N806
    other = dict(batch)
    other["input_ids"] = torch.where(changed_BT, (batch["input_ids"] + 1) % model.config.vocab_size, batch["input_ids"])
    training = model.training
    model.eval()
    try:
        logits = []
        for one in (batch, other):
            arguments, where = model_inputs(model, one, last_BT)
            with only_positions(model.get_output_embeddings(), where):
                logits.append(model(**arguments, use_cache=False).logits[0].float())
    finally:
        model.train(training)
    moved_N = (logits[0] - logits[1]).abs().amax(-1)  # noqa: N806
    was_changed_N = changed_BT[last_BT]  # noqa: N806
    found = torch.zeros(2, device=moved_N.device)
    if was_changed_N.any():
        # Rows with a single sample say nothing; theirs would not move in any model.
        found[0], found[1] = moved_N[~was_changed_N].amax(), moved_N[was_changed_N].amax()
    return found


def refuse_leak(model: PreTrainedModel, largest: Tensor) -> None:
    """Refuses a model whose samples see each other.

    Args:
        model: for its name.
        largest: of :func:`measure_leak`, over all processes.

    Raises:
        ValueError: samples that stayed the same moved by more than rounding.
    """
    still, changed = largest.tolist()
    if still > 0.03 * changed:
        raise ValueError(
            f"data.packing: in {model.config.model_type} packed samples attend to each other (a logit moved by "
            f"{still:.2g} when another sample changed); {_WAY_OUT}"
        )
