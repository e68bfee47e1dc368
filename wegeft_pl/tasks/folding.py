"""Whether an adapter is folded into the weights while text is generated."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from lightning.pytorch.utilities import rank_zero_warn

from wegeft_pl.adapter import Adapter
from wegeft_pl.adapter.folded import cannot_fold, folded

#: Folding rounds W' to the weight's dtype; in these the rounding is that of the computation itself.
EXACT = (torch.float32, torch.float64)


def while_generating(adapter: Adapter | None, fold: bool | None, compiled: bool) -> AbstractContextManager[None]:
    """The context to generate in.

    Args:
        adapter: the backbone's, or None.
        fold: True folds, which takes a copy of every edited weight and rounds it as merging would; False keeps the
            hooks; None folds where neither the result nor much memory is at stake: in float32, and where a hook would
            generate factors from W for every token.
        compiled: whether blocks are compiled, which would be traced anew without their hooks.

    Returns:
        Folded weights, or nothing special.
    """
    if adapter is None or fold is False or adapter.state == "folded":
        return nullcontext()
    reason = "its blocks are compiled" if compiled else cannot_fold(adapter)
    if reason is not None:
        if fold:
            rank_zero_warn(f"model.fold_to_generate: {reason}, so text is generated through the adapter's hooks")
        return nullcontext()
    exact = all(site.weight.dtype in EXACT for site in adapter.sites)
    reads_weights = any(site.form != "edit" for site in adapter.sites)
    return folded(adapter) if fold or exact or reads_weights else nullcontext()
