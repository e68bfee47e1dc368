"""What lies between the two linear layers of a reference checkpoint, as a generator of this project."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from wegeft_pl.adapter.reference_files import ReferenceFile

_GENERATORS = "wegeft_pl.generators"
#: The blocks without tensors, by what the checkpoint calls their function.
_ELEMENTWISE = {
    "identity": f"{_GENERATORS}.LinearGenerator",
    "sigmoid": f"{_GENERATORS}.SigmoidGenerator",
    "gelu": f"{_GENERATORS}.GELUGenerator",
}
#: What stands in for the linear one where the projections have biases.
_AFFINE = f"{_GENERATORS}.AffineGenerator"
#: Names inside one block there and here, by kind of block.
_MLP = {"mlp.fc1": "channels.branch.up", "mlp.fc2": "channels.branch.down"}
_AFTER_TOKENS = {"norm1": "tokens.norm", "norm2": "channels.norm", **_MLP}
_NAMES = {
    "mlp": {"norm1": "channels.norm", **_MLP},
    "transformer": {"attn.qkv": "tokens.branch.qkv", "attn.proj": "tokens.branch.out", **_AFTER_TOKENS},
    "pamcat_transformer": {
        "attn.q": "tokens.branch.query",
        "attn.k": "tokens.branch.key",
        "attn.v": "tokens.branch.value",
        "attn.cluster.cluster": "tokens.branch.cluster",
        "attn.proj": "tokens.branch.out",
        **_AFTER_TOKENS,
    },
    "mlp_mixer": {
        "norm1": "tokens.norm",
        "mlp1.fc1": "tokens.branch.down",
        "mlp1.fc2": "tokens.branch.up",
        "norm2": "channels.norm",
        "mlp2.fc1": "channels.branch.up",
        "mlp2.fc2": "channels.branch.down",
    },
}
_CLASSES = {
    "mlp": f"{_GENERATORS}.MLPGenerator",
    "transformer": f"{_GENERATORS}.TransformerGenerator",
    "pamcat_transformer": f"{_GENERATORS}.PaCaGenerator",
    "mlp_mixer": f"{_GENERATORS}.MixerGenerator",
}


@dataclass
class Kind:
    """A generator class with its options, equal where two generators can share one config.

    Args:
        generator: import path of the class.
        options: its options.
        tensors: values of the parameters beside phi and psi, by name in the generator.
    """

    generator: str
    options: dict[str, Any]
    tensors: dict[str, Tensor] = field(compare=False)


def kind_of(file: ReferenceFile, key: str) -> Kind:
    """Finds the generator class that computes what a reference generator computes.

    Args:
        file: the checkpoint.
        key: one of its generators.

    Raises:
        ValueError: there is no such class here, or the file does not say what it needs; names what is missing.
    """
    generator, options = file.generators[key], file.options
    block_type = _block_type(file, key)
    if block_type == "simple_block":
        function = str(options.get("act_layer") or "identity")
        if function not in _ELEMENTWISE:
            raise ValueError(
                f"{file.path}: no generator here has the function {function}, only {', '.join(_ELEMENTWISE)}"
            )
        found = Kind(_ELEMENTWISE[function], {}, {})
    else:
        found = _with_blocks(file, key, block_type)
    biases = [bias for other in file.generators.values() for bias in other.biases.values()]
    if not any(bool(bias.any()) for bias in biases):  # biases that are all zero say nothing
        return found
    if found.generator != _ELEMENTWISE["identity"]:
        raise ValueError(
            f"{file.path}: the projections of {key} have biases beside a nonlinear block, which no generator here has"
        )
    rank, width = generator.psi.shape
    zeros = {"phi_bias": generator.psi.new_zeros(rank), "psi_bias": generator.psi.new_zeros(width)}
    return Kind(_AFFINE, {}, zeros | {f"{part}_bias": bias for part, bias in generator.biases.items()})


def _block_type(file: ReferenceFile, key: str) -> str:
    """The kind of block by its tensors' names, checked against what the file says of itself."""
    parts = {re.sub(r"^blocks\.\d+\.", "", name) for name in file.generators[key].blocks}
    if not parts:
        found = "simple_block"
    elif any(name.startswith("mlp1.") for name in parts):
        found = "mlp_mixer"
    elif any(name.startswith("attn.qkv.") for name in parts):
        found = "transformer"
    elif any(name.startswith("attn.cluster.") for name in parts):
        found = "pamcat_transformer" if any(name.startswith("mlp.") for name in parts) else "pamcat_attn"
    else:
        found = "mlp" if any(name.startswith("mlp.") for name in parts) else "unknown"
    said = file.options.get("block_type")
    if said is not None and said != found:
        raise ValueError(f"{file.path} says block_type {said}, but the tensors of hypernets.{key} are those of {found}")
    if found != "simple_block" and found not in _CLASSES:
        raise ValueError(
            f"{file.path}: hypernets.{key} is a block of kind {found} ({sorted(parts)[0]}, ...), which has no "
            f"generator here; {', '.join(_CLASSES)} and simple_block are read"
        )
    return found


def _with_blocks(file: ReferenceFile, key: str, block_type: str) -> Kind:
    generator, said = file.generators[key], file.options
    names, rank = _NAMES[block_type], generator.psi.shape[0]
    tensors: dict[str, Tensor] = {}
    for name, tensor in generator.blocks.items():
        match = re.match(r"^blocks\.(\d+)\.(.+)\.(weight|bias)$", name)
        if match is None or match[2] not in names:
            raise ValueError(f"{file.path}: hypernets.{key}.{name} is no part of a {block_type}; it cannot be read")
        tensors[f"blocks.{match[1]}.{names[match[2]]}.{match[3]}"] = tensor
    depth = 1 + max(int(name.split(".")[1]) for name in tensors)
    options: dict[str, Any] = {"depth": depth, "norm": _norm(file, key, tensors)}
    hidden = tensors.get("blocks.0.channels.branch.up.weight")
    if hidden is None:
        raise ValueError(f"{file.path}: hypernets.{key} lacks tensors of a {block_type}; the file was cut")
    options["mlp_ratio"] = hidden.shape[0] / rank
    if block_type in ("transformer", "pamcat_transformer"):
        # The number of heads leaves no trace in the tensors; one is the authors' own setting.
        options["heads"] = int(said.get("num_heads", 1))
    if block_type == "pamcat_transformer":
        if said.get("cluster_activation", "sigmoid") != "sigmoid":
            raise ValueError(
                f"{file.path}: cluster_activation {said['cluster_activation']} gives all ones in the authors' code, "
                "not a softmax; only sigmoid is read"
            )
        options["clusters"] = tensors["blocks.0.tokens.branch.cluster.weight"].shape[0]
    if block_type == "mlp_mixer":
        options["hidden_tokens"] = tensors["blocks.0.tokens.branch.down.weight"].shape[0]
    return Kind(_CLASSES[block_type], options, tensors)


def _norm(file: ReferenceFile, key: str, tensors: dict[str, Tensor]) -> str:
    if any(".norm." in name for name in tensors):
        return "layer"
    said = str(file.options.get("norm_layer", "l2"))
    known = {"l2": "l2", "none": "none", "identity": "none", "None": "none"}
    if said not in known:
        raise ValueError(f"{file.path}: hypernets.{key} has no tensors of the norm_layer {said}; l2 and none have none")
    return known[said]
