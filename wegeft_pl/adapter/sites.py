"""The sites: frozen layers and the hooks that edit what flows through them.

Shapes: B batch, T tokens, I in features, O out features, R rank. phi (D, R) and psi (R, D) with D the edited width.

A hook object holds a reference to the generator module, never to its parameters, and reads them at forward time:
sharded training swaps the parameter objects behind a module, and a kept reference would silently train nothing.
The reference is not a registration, so a generator shared by many sites still has one owner and one name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wegeft_pl.adapter.config import AdapterConfig
from wegeft_pl.adapter.layout import Layout, bias_of, weight_of
from wegeft_pl.generators import Generator


@dataclass(eq=False)
class Site:
    """One frozen layer that an adapter edits.

    Args:
        name: the layer's name in the backbone.
        module: the layer itself, untouched.
        layout: its geometry.
        generator: the group's generator, owned elsewhere.
        config: the adapter's config.
    """

    name: str
    module: nn.Module
    layout: Layout
    generator: Generator
    config: AdapterConfig

    @property
    def form(self) -> str:
        """``"edit"`` or ``"factor"``: the configured form, with auto resolved."""
        if self.config.form != "auto":
            return self.config.form
        return "edit" if self.generator.can_edit and self.config.weight_dropout == 0 else "factor"

    def hook(self) -> RemovableHandle:
        """Installs the edit on the layer and returns the handle that takes it away."""
        if self.form == "factor":
            return self.module.register_forward_hook(AddFactors(self))
        if self.config.side == "input":
            return self.module.register_forward_pre_hook(EditInput(self))
        return self.module.register_forward_hook(EditOutput(self))

    def factors(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Generates the site's change for use outside training, the scale folded into ``left``.

        Args:
            dtype: the precision to compute in; the weight is converted to it.

        Returns:
            ``left`` and ``right`` with ``left @ right`` the change of the layer's matrix (see
            :meth:`Layout.to_matrix`), detached.

        Raises:
            ValueError: the layer's weight is quantised.
        """
        with torch.no_grad():
            matrix = self.layout.to_matrix(weight_of(self.module, self.name), self.config.side).to(dtype)
            left, right = evaluate(self.generator, matrix, dtype)
        return self.config.scale * left, right

    def bias_change(self, dtype: torch.dtype = torch.float32) -> Tensor | None:
        """The change of the bias, s phi psi b per group (O,), where the output side moves it; else None."""
        bias = bias_of(self.module)
        if bias is None or self.config.side == "input":
            return None
        with torch.no_grad():
            change = _output_bias(self, bias.detach().to(dtype), dtype)
        return self.config.scale * change


def evaluate(
    generator: Generator, matrix: Tensor, dtype: torch.dtype, whole: Callable[[Tensor], Tensor] = lambda x: x
) -> tuple[Tensor, Tensor]:
    """Generates factors for use outside training: in eval mode, in a precision of the caller's choice.

    Args:
        generator: in any mode, which it keeps.
        matrix: the weight as the generator sees it, in ``dtype``.
        dtype: the precision; the generator's own parameters are not changed.
        whole: makes a sharded parameter whole.

    Returns:
        ``left`` and ``right``, detached, before the scale.
    """
    # Cast a functional view of the parameters, so that the owner keeps its own dtype.
    cast = {name: whole(value.detach()).to(dtype) for name, value in generator.named_parameters()}
    modes = [(module, module.training) for module in generator.modules()]
    generator.eval()  # drop path belongs to training
    try:
        left, right = torch.func.functional_call(generator, cast, (matrix,))
    finally:
        for module, training in modes:
            module.training = training
    return left.detach(), right.detach()


class EditInput:
    """Forward pre-hook: x becomes x + s (x psi^T) phi^T, which equals the layer with W (I + s phi psi)."""

    def __init__(self, site: Site) -> None:
        self.generator, self.layout, self.config = site.generator, site.layout, site.config

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Edits the layer's first argument (..., I)."""
        x, *rest = args
        return (_edited(self.generator, self.layout, self.config, module, x), *rest)


class EditOutput:
    """Forward hook: y becomes y + s (y psi^T) phi^T, which equals the layer with (I + s phi psi) W and bias alike."""

    def __init__(self, site: Site) -> None:
        self.generator, self.layout, self.config = site.generator, site.layout, site.config

    def __call__(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        """Edits the layer's output (..., O)."""
        return _edited(self.generator, self.layout, self.config, module, y)


class AddFactors:
    """Forward hook: y becomes y + s (x right^T) left^T with factors generated from W; serves every generator."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        """Adds the generated change to the layer's output (..., O)."""
        site, config, training = self.site, self.site.config, module.training
        weight = weight_of(module, site.name)
        dropped = F.dropout(weight, config.weight_dropout, training)
        left, right = site.generator(site.layout.to_matrix(dropped, config.side))
        x = F.dropout(args[0], config.input_dropout, training)
        change = site.layout.product(module, x, left.to(x.dtype), right.to(x.dtype), config.side)
        bias = bias_of(module)
        if config.side == "output" and bias is not None:
            moved = _output_bias(site, bias, bias.dtype).to(change.dtype)
            change = change + (moved[:, None, None] if site.layout.kind == "conv2d" else moved)
        return y + config.scale * change


def _edited(generator: Generator, layout: Layout, config: AdapterConfig, module: nn.Module, tensor: Tensor) -> Tensor:
    phi, psi = generator.phi, generator.psi  # read now: sharded training swaps the attributes
    source = F.dropout(tensor, config.input_dropout, module.training)
    return tensor + config.scale * layout.low_rank(source, psi.to(tensor.dtype), phi.to(tensor.dtype)).to(tensor.dtype)


def _output_bias(site: Site, bias: Tensor, dtype: torch.dtype) -> Tensor:
    # Only generators with phi and psi have an output side: a nonlinear one has no action on a bias.
    phi, psi = site.generator.phi.to(dtype), site.generator.psi.to(dtype)
    grouped = bias.reshape(site.layout.groups, -1)
    return F.linear(F.linear(grouped, psi), phi).reshape(-1)
