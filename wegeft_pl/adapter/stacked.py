"""Expert weights stacked in one three-dimensional parameter: how they are stored and what they are applied to.

Shapes: E experts, I in features, O out features. A stack is (E, O, I), or (E, I, O) where it is stored transposed.

The experts of transformers are recognised by what their decorator leaves on the module, so a class from the hub that
uses the decorator is known too; the few without it are listed by name. Any other parameter of three dimensions is
unknown: nothing says which axis is which.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

# What use_experts_implementation of transformers sets on every module it decorates.
_DECORATED = ("has_gate", "has_bias", "is_transposed", "is_concatenated")
# Undecorated: class -> {parameter: (transposed, reads)}.
_GATED = {"gate_up_proj": (False, "input"), "down_proj": (False, "inner")}
_UNDECORATED: dict[str, dict[str, tuple[bool, str]]] = {
    "llama4.modeling_llama4.Llama4TextExperts": {"gate_up_proj": (True, "input"), "down_proj": (True, "inner")},
    "step3p7.modeling_step3p7.Step3p7Experts": _GATED,
    # Its zero-compute experts return the input itself, so an edit of the input would reach the output past W.
    "longcat_flash.modeling_longcat_flash.LongcatFlashExperts": _GATED | {"gate_up_proj": (False, "inner")},
    "inkling.modeling_inkling.InklingSharedExperts": {
        "gate_proj": (False, "inner"),  # up_proj reads the same input: an edit of it would change both
        "up_proj": (False, "inner"),
        "down_proj": (False, "inner"),
    },
    "jetmoe.modeling_jetmoe.JetMoeParallelExperts": {"weight": (False, "input")},
    "moshi.modeling_moshi.MoshiFlexibleLinear": {"weight": (False, "input")},
    "kyutai_speech_to_text.modeling_kyutai_speech_to_text.KyutaiSpeechToTextFlexibleLinear": {
        "weight": (False, "input")
    },
    "csm.modeling_csm.CsmCodebooksHead": {"weight": (True, "input")},
}


@dataclass(frozen=True)
class Stack:
    """The geometry of one stacked parameter.

    Args:
        num_experts: E.
        in_features: I.
        out_features: O.
        transposed: True where it is stored (E, I, O), False where (E, O, I).
        reads: ``"input"`` where every expert applies it to rows of the module's own first argument and nothing else
            reads that argument, so that editing the argument edits every expert alike; ``"inner"`` otherwise.
        bias: the name of the bias parameter (E, O) beside it, or None.
    """

    num_experts: int
    in_features: int
    out_features: int
    transposed: bool
    reads: str
    bias: str | None


def stack_of(module: nn.Module, parameter: str) -> Stack | None:
    """Reads the geometry of a stacked expert parameter.

    Args:
        module: the module that holds the parameter.
        parameter: its name there, such as ``"gate_up_proj"``.

    Returns:
        The geometry, or None where the parameter is no stack of a known class.
    """
    weight = dict(module.named_parameters(recurse=False)).get(parameter)
    known = _uses(module).get(parameter)
    if weight is None or weight.ndim != 3 or known is None:
        return None
    transposed, reads = known
    num_experts, rows, columns = weight.shape
    out_features, in_features = (columns, rows) if transposed else (rows, columns)
    beside = f"{parameter}_bias"
    bias = beside if beside in dict(module.named_parameters(recurse=False)) else None
    return Stack(num_experts, in_features, out_features, transposed, reads, bias)


def gate_sizes(module: nn.Module, parameter: str) -> dict[str, int] | None:
    """The parts of a stack whose output features are a gate and what it multiplies.

    Args:
        module: the module that holds the parameter.
        parameter: its name there.

    Returns:
        Output features by part name within one period: half and half where the two are concatenated, one and one
        where they alternate; None where the parameter is no such stack.
    """
    stack = stack_of(module, parameter)
    if stack is None or parameter != "gate_up_proj":
        return None
    half = stack.out_features // 2 if vars(module).get("is_concatenated", True) else 1
    return {"gate": half, "up": half}


def _uses(module: nn.Module) -> dict[str, tuple[bool, str]]:
    state = vars(module)
    if all(name in state for name in _DECORATED):
        first = "gate_up_proj" if state["has_gate"] else "up_proj"
        return {first: (state["is_transposed"], "input"), "down_proj": (state["is_transposed"], "inner")}
    for kind in type(module).__mro__:
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("transformers.models.")
        if name in _UNDECORATED:
            return _UNDECORATED[name]
    return {}
