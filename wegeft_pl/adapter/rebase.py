"""An adapter on another base than its own, on purpose."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from wegeft_pl.adapter.adapter import Adapter
from wegeft_pl.adapter.files import TENSORS, load_state, read_description, read_history
from wegeft_pl.adapter.inject import inject
from wegeft_pl.adapter.storage import read_tensors


def rebase(directory: str | Path, model: nn.Module) -> Adapter:
    """Puts a saved adapter on another checkpoint of the same architecture, and records that it did.

    phi and psi are taken over bit for bit. The change W phi psi is then made from the new weights, so it is another
    change; how good a one is to be measured, not assumed. What the adapter trains in full replaces the new base's own.
    Saving it writes the new base's fingerprint, with the old one in the history.

    Args:
        directory: what :meth:`Adapter.save` wrote.
        model: another base with layers of the same names and widths, its weights loaded, without an adapter.

    Returns:
        The adapter, attached.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files are broken, the model is the adapter's own base, or its layers do not fit. The model is
            left without an adapter.
    """
    directory = Path(directory)
    config, base = read_description(directory)
    tensors = read_tensors(directory / TENSORS)
    adapter = inject(model, config)
    try:
        here = adapter.fingerprint
        if here == base:
            raise ValueError(f"{directory} was trained on this base ({base.short()}); load it with load_adapter")
        load_state(adapter, tensors, str(directory / TENSORS))
    except ValueError:
        adapter.remove()
        raise
    adapter.history = [*read_history(directory), {"rebased_from": base.to_dict()}]
    return adapter
