"""Parameter groups of an optimiser: other rates and decays for the head, for norms and biases, and by depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

#: What a group holds until :func:`apply_scales` has multiplied its learning rate by it.
SCALE = "lr_scale"


@dataclass(frozen=True)
class GroupSettings:
    """What differs from the optimiser's own settings; None means as the optimiser's.

    Args:
        head_lr: learning rate of the classifier.
        head_weight_decay: weight decay of the classifier.
        norm_bias_weight_decay: weight decay of everything with at most one axis (norms, biases), the head's bias too.
        layer_decay: factor of the learning rate from one layer to the one below, in (0, 1]; the head and generators
            that serve several layers have the full rate.

    Raises:
        ValueError: a rate or a decay is negative, or layer_decay lies outside (0, 1].
    """

    head_lr: float | None = None
    head_weight_decay: float | None = None
    norm_bias_weight_decay: float | None = None
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        for name in ("head_lr", "head_weight_decay", "norm_bias_weight_decay"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative (null: as the optimiser's), got {value!r}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1] (null: none), got {self.layer_decay!r}")


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    head: Iterable[nn.Parameter],
    settings: GroupSettings,
    depths: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Sorts trained parameters into groups of equal settings, in the order in which they come, the head's last.

    Args:
        parameters: trained ones by name.
        head: those of the classifier.
        settings: what differs where.
        depths: for layer_decay, how many layers lie above a parameter, by name; 0 for one that is missing.

    Returns:
        Groups for an optimiser, with ``params``, what differs from its own settings, and ``lr_scale`` where
        :func:`apply_scales` has something to do.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1)
        >>> groups = parameter_groups(layer.named_parameters(), [], GroupSettings(norm_bias_weight_decay=0.0))
        >>> [({name: value for name, value in group.items() if name != "params"}) for group in groups]
        [{}, {'weight_decay': 0.0}]
    """
    heads = {id(parameter) for parameter in head}
    groups: dict[tuple[tuple[str, float], ...], dict[str, Any]] = {}
    for name, parameter in sorted(parameters, key=lambda item: id(item[1]) in heads):
        own: dict[str, float] = {}
        if id(parameter) in heads:
            own |= _given(lr=settings.head_lr, weight_decay=settings.head_weight_decay)
        elif settings.layer_decay is not None and depths is not None and depths.get(name, 0):
            own[SCALE] = settings.layer_decay ** depths[name]
        if parameter.ndim <= 1:
            own |= _given(weight_decay=settings.norm_bias_weight_decay)
        groups.setdefault(tuple(sorted(own.items())), {"params": [], **own})["params"].append(parameter)
    return list(groups.values())


def apply_scales(optimizer: Optimizer) -> None:
    """Multiplies the rates of groups that have a scale by it, once; before a schedule reads them."""
    for group in optimizer.param_groups:
        group["lr"] *= group.pop(SCALE, 1.0)
    # A group without the key would differ from one that a checkpoint brings.
    assert all(SCALE not in group for group in optimizer.param_groups)


def _given(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
