"""Where a site's weight is: which module holds it, under which name, and who reads it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from wegeft_pl.adapter.layout import Layout


@dataclass(frozen=True, eq=False)
class Place:
    """One weight of a model, or a part of one, that can be edited.

    Args:
        name: what people call it: the layer's name; with the parameter's where that is not ``weight``; with the part's
            where it is one (``blocks.0.attn.qkv.q``).
        layer: the name of the module that holds the weight.
        module: that module.
        parameter: the weight's name in it.
        layout: the weight's geometry.
        reader: the module whose forward reads the weight, where that does not call the layer; else None.
        reads_input: whether the weight is applied to the layer's own first argument, so that editing the argument
            edits the weight.
        bias: the bias's name in the module, whether or not there is one.
        returns_product: whether the layer returns its weight's product with the input, and not something made of it.
    """

    name: str
    layer: str
    module: nn.Module
    parameter: str
    layout: Layout
    reader: nn.Module | None = None
    reads_input: bool = True
    bias: str = "bias"
    returns_product: bool = True

    @property
    def tensor(self) -> str:
        """The weight's name in the model."""
        return f"{self.layer}.{self.parameter}"

    @property
    def is_called(self) -> bool:
        """Whether the layer is called with its input and returns its product, so that its hooks see both."""
        return self.reader is None and self.returns_product and not self.layout.kind.startswith("stack")
