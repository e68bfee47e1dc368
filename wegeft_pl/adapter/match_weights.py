"""Which tensor of which file belongs to which of a model's names."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from wegeft_pl.adapter.owner import OWNER
from wegeft_pl.adapter.weight_files import TensorEntry


def match_weights(
    model: nn.Module, files: Mapping[str, TensorEntry], prefix: str = "", may_lack: Collection[str] = ()
) -> dict[str, TensorEntry] | None:
    """Finds where each parameter and saved buffer of a model lies in files.

    Args:
        model: with or without an adapter, whose tensors are in no file.
        files: what the files hold, by the names in them.
        prefix: a first part of names that files have and the model has not, or the other way round: a bare decoder
            (``layers.0...``) reads the files of a model with a head (``model.layers.0...``).
        may_lack: names that files need not have: a new head's. They get no entry then.

    Returns:
        An entry for each name in the model's state dict, the same one for tied names; None where a name is not in the
        files or has another shape, so that only the library the model came from knows how to read them.
    """
    named = model.state_dict(keep_vars=True).items()
    state = {name: tensor for name, tensor in named if OWNER not in name.split(".")}
    found: dict[str, TensorEntry] = {}
    for name, tensor in state.items():
        for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
            if candidate in files and files[candidate].shape == tuple(tensor.shape):
                found[name] = files[candidate]
                break
    # Only one of a tied tensor's names is in the files.
    by_tensor: dict[int, TensorEntry] = {}
    for name, entry in found.items():
        by_tensor.setdefault(id(state[name]), entry)
    for name, tensor in state.items():
        if id(tensor) not in by_tensor:
            if name in may_lack:
                continue
            return None
        found.setdefault(name, by_tensor[id(tensor)])
    return found
