"""What must be the same on all processes of a run, compared before anything is computed with it.

A process with other data, another base or another seed would train something else, or leave the others waiting.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from wegeft_pl.adapter import Adapter
from wegeft_pl.adapter.sharded import reshard

#: Numbers of each adapter tensor that are compared.
SAMPLES = 512
#: Facts that may differ: every node may have its own copy of the data, and of the base.
MAY_DIFFER = frozenset({"path"})


@runtime_checkable
class DescribesItself(Protocol):
    """A data module that says what its data was."""

    def describe(self) -> dict[str, Any]:
        """Plain JSON types."""
        ...


class EveryRankError(ValueError):
    """What all processes raise alike, by a decision that all of them share."""


def check_agreement(facts: Mapping[str, Any], device: torch.device) -> None:
    """Compares facts over all processes; a collective, so every process must call it at the same place.

    Nothing is pickled: what travels is a digest, and the facts as JSON only where digests differ.

    Args:
        facts: by name, plain JSON types; nested ones are named ``outer.inner``.
        device: where the process group's tensors lie.

    Raises:
        EveryRankError: names the first process that differs from process 0 and the fact.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return
    own = {name: json.dumps(value, sort_keys=True, default=str) for name, value in _flat(facts).items()}
    text = json.dumps(own, sort_keys=True).encode()
    if len(set(_gather(hashlib.sha256(text).digest(), device))) == 1:
        return
    everyone: list[dict[str, str]] = [json.loads(part) for part in _gather(text, device)]
    for rank, other in enumerate(everyone):
        for name in sorted(everyone[0].keys() | other.keys()):
            mine, theirs = everyone[0].get(name, "nothing"), other.get(name, "nothing")
            if mine != theirs:
                raise EveryRankError(
                    f"rank {rank} differs from rank 0 in {name}: {_short(theirs)}, rank 0 has {_short(mine)}; every "
                    "process must be started with the same recipe, seed, data and base"
                )


def adapter_facts(adapter: Adapter) -> dict[str, Any]:
    """What of an adapter must agree: its config, its base, its tensors' shapes, and where they start.

    A collective where the backbone is sharded. Sharded tensors have one value by construction; of others some numbers
    are sampled.
    """
    reshard(adapter.model)
    state = adapter.state_dict()
    return {
        "config": adapter.config.to_dict(),
        "base": adapter.fingerprint.to_dict(),
        "shapes": {name: list(tensor.shape) for name, tensor in state.items()},
        "values": {name: _sample(tensor) for name, tensor in state.items() if not isinstance(tensor, DTensor)},
    }


def _sample(tensor: Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // SAMPLES)
    # A copy: torch never again resizes memory that numpy has seen, and FSDP2 frees its gathered weights by resizing.
    return hashlib.sha256(flat[::step].clone().float().cpu().numpy().tobytes()).hexdigest()[:12]


def _flat(facts: Mapping[str, Any], outer: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if name in MAY_DIFFER:
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{outer}{name}.")
        else:
            flat[f"{outer}{name}"] = value
    return flat


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def _gather(data: bytes, device: torch.device) -> list[bytes]:
    """The bytes of every process, which may differ in length."""
    world = torch.distributed.get_world_size()
    lengths = torch.zeros(world, dtype=torch.int64, device=device)
    lengths[torch.distributed.get_rank()] = len(data)
    torch.distributed.all_reduce(lengths)
    longest = int(lengths.max())
    padded = torch.frombuffer(bytearray(data.ljust(longest, b"\0")), dtype=torch.uint8).to(device)
    parts = [torch.empty_like(padded) for _ in range(world)]
    torch.distributed.all_gather(parts, padded)
    sizes = lengths.tolist()
    return [bytes(part[:size].cpu().numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)]
