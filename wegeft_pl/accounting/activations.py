"""The memory that a training step needs beside weights, gradients and optimiser, counted without any of it.

The loss is computed and differentiated on the meta device: parameters and buffers are swapped for twins that have
shapes and no values, whatever the real ones are, and :class:`LiveBytes` counts what the step would hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from wegeft_pl.accounting.live import LiveBytes
from wegeft_pl.accounting.modes import preserved_modes


def activation_bytes(module: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Counts the peak of everything but parameters, buffers and gradients in one forward and backward pass.

    Args:
        module: holds all parameters that ``loss`` uses, on any device; it and its values are left as they are, and it
            is counted in train mode, so gradient checkpointing counts as it will run.
        loss: computes a loss () with ``module`` on a batch whose tensors are on the CPU. Values of the batch count
            only where a mask selects positions (so that labelled positions are as many as there are).

    Returns:
        Bytes, for attention that never forms the T x T scores (flash or memory-efficient kernels).
    """
    twins: dict[str, Tensor] = {
        name: nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        for name, parameter in module.named_parameters()
    }
    twins |= {name: buffer.detach().to("meta") for name, buffer in module.named_buffers()}
    live = LiveBytes(twins.values())
    for twin in twins.values():
        if twin.requires_grad:
            twin.register_post_accumulate_grad_hook(lambda parameter: live.leave_out(_gradient(parameter)))
    step = _Step(module, loss)
    with preserved_modes(module), torch.enable_grad():
        module.train()
        with ShapesOnly(), live:
            torch.func.functional_call(step, {f"module.{name}": twin for name, twin in twins.items()}, ())
    return live.peak


class _Step(nn.Module):
    """A module whose call is one forward and backward pass, so that recomputation sees swapped parameters too."""

    def __init__(self, module: nn.Module, loss: Callable[[], Tensor]) -> None:
        super().__init__()
        self.module = module
        self._loss = loss

    def forward(self) -> None:
        loss = self._loss()
        # What loss.backward() calls. Through the public functions, which a TorchFunctionMode can override, the mode
        # would be off during the backward pass, and gradient checkpointing recomputes its blocks there.
        _engine_run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
        )


class ShapesOnly(TorchFunctionMode):
    """Lets code that was written for real tensors run on parameters of the meta device.

    A real tensor that meets a meta tensor becomes one, except as an index, whose values decide the result's shape. A
    question about unknown values ("is this mask all ones?") is answered with no, the general case. Attention takes
    the shape rules of the fused kernels that training uses; on the meta device torch would spell it out.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        on_meta = any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves((args, kwargs)))
        if not on_meta or func is torch.Tensor.__getitem__:
            return func(*args, **kwargs)
        if func in (torch.Tensor.__bool__, torch.Tensor.item):
            return False
        args, kwargs = tree_map_only(
            Tensor, lambda tensor: tensor if tensor.is_meta else tensor.to("meta"), (args, kwargs)
        )
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The signature of F.scaled_dot_product_attention, on (B, heads, T, head size) tensors of the meta device."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # The kernels add their mask, so a boolean one is first written out in the query's dtype.
        attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device="meta")
    # The dropout mask is drawn inside the kernel and takes no memory; the CPU's kernel would refuse the argument.
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output: Tensor = attend(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return output


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
