"""The identity of a base model: which pretrained weights an adapter belongs to.

An adapter changes W by a function of W, so on another base it is another change; loading it there must be refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wegeft_pl.adapter.owner import OWNER
from wegeft_pl.adapter.sites import Site

#: Numbers sampled from each tensor. Any fine-tuned or re-initialised copy of a base differs in some of them, and a 70 B
#: model is read in about a second.
SAMPLES = 512
#: A prime that steps through a flat tensor; no width or row length of a model is a multiple of it, so every row and
#: column is met.
STRIDE = 1_000_003


@dataclass(frozen=True)
class Fingerprint:
    """What is compared when an adapter meets a base.

    Args:
        model: class name of the backbone; shown, not compared (a headless twin of the same base is the same base).
        shapes: SHA-256 over the edited layers' names and weight shapes.
        weights: SHA-256 over samples of every parameter that the adapter does not train, rounded to bfloat16 so that
            one checkpoint loaded in float32 or bfloat16 has one fingerprint (a float32 checkpoint loaded in float16 has
            lost other bits, and has another); None where the edited weights are quantised.
    """

    model: str
    shapes: str
    weights: str | None

    def to_dict(self) -> dict[str, str | None]:
        """The fields as plain JSON types."""
        return dataclasses.asdict(self)

    def check(self, other: Fingerprint, what: str) -> None:
        """Compares this fingerprint, the one on file, with the base at hand.

        Raises:
            ValueError: the bases differ; both fingerprints are shown.
        """
        same_weights = self.weights == other.weights or self.weights is None or other.weights is None
        if self.shapes == other.shapes and same_weights:
            return
        part = "weights" if self.shapes == other.shapes else "layers"
        raise ValueError(
            f"{what} was trained on another base (its {part} differ): expected {self.short()}, this model is "
            f"{other.short()}; load the base that the adapter was trained on, in its own dtype, float32 or bfloat16"
        )

    def short(self) -> str:
        """One readable word for messages, such as ``LlamaForCausalLM-1f3a09c2/7d00b1aa``."""
        weights = "quantised" if self.weights is None else self.weights[:8]
        return f"{self.model}-{self.shapes[:8]}/{weights}"


def fingerprint_of(model: nn.Module, sites: list[Site], trained: Set[str] = frozenset()) -> Fingerprint:
    """Takes the fingerprint of a backbone.

    Args:
        model: the backbone, with its weights in place.
        sites: the edited layers.
        trained: names of parameters that are trained in full, which are no part of the base's identity.

    Returns:
        The fingerprint.

    Raises:
        ValueError: a weight is on the meta device.
    """
    shapes, weights = hashlib.sha256(), hashlib.sha256()
    for site in sorted(sites, key=lambda site: site.name):
        layout = site.layout
        shapes.update(f"{site.name} {layout.out_features} {layout.in_features} {layout.kernel};".encode())
    for name, parameter in sorted(model.named_parameters()):
        if OWNER in name.split(".") or name in trained or not parameter.is_floating_point():
            continue
        if parameter.is_meta:
            raise ValueError(f"{name} is on the meta device: the base has no weights yet to take a fingerprint of")
        weights.update(_sample(parameter.detach()))
    readable = all(site.module.get_parameter("weight").is_floating_point() for site in sites)
    return Fingerprint(type(model).__name__, shapes.hexdigest(), weights.hexdigest() if readable else None)


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.reshape(-1)
    count = min(SAMPLES, flat.numel())
    # Integers: a float32 range cannot address the elements of a large weight exactly.
    index = torch.arange(count, device=flat.device) * STRIDE % max(1, flat.numel())
    return flat[index].to(torch.bfloat16).cpu().view(torch.int16).numpy().tobytes()
