"""The identity of a base model: which pretrained weights an adapter belongs to.

An adapter changes W by a function of W, so on another base it is another change; loading it there must be refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import torch
from torch import nn

from wegeft_pl.adapter.sites import Site

#: Numbers sampled from each edited weight, evenly spaced. Any fine-tuned or re-initialised copy of a base differs in
#: some of them, and a 70 B model is read in well under a second.
SAMPLES = 1024


@dataclass(frozen=True)
class Fingerprint:
    """What is compared when an adapter meets a base.

    Args:
        model: class name of the backbone; shown, not compared (a headless twin of the same base is the same base).
        shapes: SHA-256 over the edited layers' names and weight shapes.
        weights: SHA-256 over samples of the edited layers' weights, rounded to bfloat16 so that one checkpoint loaded
            in float32, float16 or bfloat16 has one fingerprint; None where the weights are quantised.
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
            f"{other.short()}; load the base that the adapter was trained on"
        )

    def short(self) -> str:
        """One readable word for messages, such as ``LlamaForCausalLM-1f3a09c2/7d00b1aa``."""
        weights = "quantised" if self.weights is None else self.weights[:8]
        return f"{self.model}-{self.shapes[:8]}/{weights}"


def fingerprint_of(model: nn.Module, sites: list[Site]) -> Fingerprint:
    """Takes the fingerprint of a backbone through its edited layers.

    Args:
        model: the backbone, with its weights in place.
        sites: the edited layers.

    Returns:
        The fingerprint.

    Raises:
        ValueError: a weight is on the meta device.
    """
    shapes, weights = hashlib.sha256(), hashlib.sha256()
    readable = True
    for site in sorted(sites, key=lambda site: site.name):
        weight = site.module.get_parameter("weight")
        if weight.is_meta:
            raise ValueError(f"{site.name} is on the meta device: the base has no weights yet to take a fingerprint of")
        shapes.update(
            f"{site.name} {site.layout.out_features} {site.layout.in_features} {site.layout.kernel};".encode()
        )
        if not weight.is_floating_point():
            readable = False
            continue
        flat = weight.detach().reshape(-1)
        # Integer arithmetic: a float32 linspace cannot address the elements of a large weight exactly.
        count = min(SAMPLES, flat.numel())
        index = torch.arange(count, device=flat.device) * flat.numel() // count
        sample = flat[index].to(torch.bfloat16).cpu()
        weights.update(sample.view(torch.int16).numpy().tobytes())
    return Fingerprint(type(model).__name__, shapes.hexdigest(), weights.hexdigest() if readable else None)
