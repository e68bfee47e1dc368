"""The head that ``import-reference`` writes beside an adapter which has none of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn, no_grad

from wegeft_pl.adapter.storage import read_tensors

#: What ``import-reference`` writes beside an adapter.
HEAD_BESIDE = "head.safetensors"


def load_head_beside(model: nn.Module, heads: Sequence[str], folder: Path) -> None:
    """Loads such a head into a model, and warns where there is none.

    Args:
        model: a classifier.
        heads: names of its head's modules.
        folder: of the adapter.

    Raises:
        ValueError: the file's tensors are not those of the head.
    """
    path = folder / HEAD_BESIDE
    if not path.is_file():
        rank_zero_warn(f"{folder} holds no head; {', '.join(heads)} stays as it was built")
        return
    tensors = read_tensors(path)
    own = {f"{head}.{name}": value for head in heads for name, value in
           model.get_submodule(head).state_dict().items()}  # fmt: skip
    if {name: value.shape for name, value in tensors.items()} != {name: value.shape for name, value in own.items()}:
        raise ValueError(
            f"{path} holds {_shapes(tensors)}, the head is {_shapes(own)}; give the number of classes that it was "
            "trained for with --model.num_classes"
        )
    with no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items())
