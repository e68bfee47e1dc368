"""What the user says about an adapter: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, get_args

from wegeft_pl.adapter.generator_path import (
    GeneratorFactory,
    check_options,
    default_zero,
    path_of,
    resolve_generator,
    unwrap,
)

Sharing = Literal["type", "all", "layer"]
Side = Literal["input", "output"]
Factor = Literal["phi", "psi"]
Form = Literal["auto", "edit", "factor", "weight"]


@dataclass(frozen=True)
class AdapterConfig:
    """Which modules are edited, by what, and what they share.

    Args:
        targets: the layers to edit. A list holds trailing parts of layer names (``"q_proj"``, ``"attn.proj"``) or
            whole names, and each entry must match at least one. A single string is a regular expression that must
            match the whole name, or ``"all-linear"``: every linear layer inside the repeated blocks, stacked experts
            included, so without embeddings and output head. A part of a fused projection is named like a child
            (``"attn.qkv.q"``, ``"qkv_proj.v"``), weights that are no layer's by their own names
            (``"experts.gate_up_proj"``, ``"self_attn.in_proj_weight.q"``). An empty list edits nothing and leaves
            ``also_train`` alone to be trained: a linear probe.
        rank: R, the inner size of the generated change.
        alpha: the scale is s = alpha / rank; None means s = 1.
        sharing: who shares one generator. ``"type"``: all sites of the same name across depth (the paper's
            default); ``"all"``: all sites of equal width; ``"layer"``: nobody, one generator per site; a list of
            regular expressions: one group for each, every site in the first that it matches (whole name).
        side: ``"input"`` for W' = W + s (W phi) psi; ``"output"`` for W' = W + s phi (psi W), bias moved alike.
        generator: the generator's class, a function that makes one, a ``functools.partial`` of either, or an import
            path; called with (width, rank, zero, side), ``rows`` where it has that parameter, and the options.
        generator_options: the generator's own options by name, plain numbers, strings and lists.
        zero: the factor that starts at zero, ``"phi"`` (language models in the paper) or ``"psi"`` (vision; the only
            one that most nonlinear generators can start with). None means the generator's own choice.
        form: how a site computes. ``"edit"`` changes the input (or output) of the untouched layer, ``"factor"`` adds
            s (x right^T) left^T to its output and reads W, ``"weight"`` forms W' anew in every forward, the only way
            where a weight is read without a call; ``"auto"`` takes the first of these that the site can. In bfloat16
            an edit of less than about one percent of the input is mostly rounded away; the factor form is kinder to it.
        input_dropout: probability of dropping elements of the edited tensor in the adapter's branch.
        weight_dropout: probability of dropping elements of W before phi (the paper's dropout); needs the factor form.
        layers: indices of the repeated blocks to edit; None means all.
        also_train: modules to train in full beside the adapter (norms, head, embeddings), by trailing parts of names.
        fused: what fused layers of models unknown to this package are made of: by trailing parts of a layer's name, the
            parts' sizes in order, within one period that repeats over the output features; such as
            ``{"attn.qkv": {"q": 64, "k": 64, "v": 64}}`` for 12 heads of 64 that interleave.

    Raises:
        ValueError: a field has a value outside its range, or two fields contradict each other.

    Source: METHOD.md sections 1 to 3.
    """

    targets: Sequence[str] | str
    rank: int = 16
    alpha: float | None = None
    sharing: Sharing | Sequence[str] = "type"
    side: Side = "input"
    generator: str | GeneratorFactory = "wegeft_pl.generators.LinearGenerator"
    generator_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    zero: Factor | None = None
    form: Form = "auto"
    input_dropout: float = 0.0
    weight_dropout: float = 0.0
    layers: Sequence[int] | None = None
    also_train: Sequence[str] = field(default_factory=tuple)
    fused: Mapping[str, Mapping[str, int]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("targets", "sharing", "layers", "also_train"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))  # hashable and safe from later edits
        object.__setattr__(self, "fused", {layer: _sizes(layer, sizes) for layer, sizes in self.fused.items()})
        if not self.targets and not self.also_train:
            raise ValueError("targets is empty; name the modules to edit, e.g. targets=['q_proj', 'v_proj']")
        if isinstance(self.also_train, str):
            raise ValueError(f"also_train must be a list of names, got the string {self.also_train!r}; write a list")
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank must be an integer of at least 1, got {self.rank!r}")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"alpha must be positive (or null for a scale of 1), got {self.alpha!r}")
        for name in ("input_dropout", "weight_dropout"):
            probability = getattr(self, name)
            if not 0 <= probability < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {probability!r}")
        self._check_choice("side", Side)
        self._settle_generator()
        self._check_choice("zero", Factor)
        self._check_choice("form", Form)
        if isinstance(self.sharing, str):
            self._check_choice("sharing", Sharing)
        elif not self.sharing:
            raise ValueError("sharing is an empty list; give regular expressions, or one of type, all, layer")
        if self.form == "edit" and self.weight_dropout > 0:
            raise ValueError(
                f"weight_dropout={self.weight_dropout} drops elements of W, which the edit form never reads; "
                "use form: factor (or auto), or input_dropout instead"
            )
        if self.form == "weight" and self.input_dropout > 0:
            raise ValueError(
                f"input_dropout={self.input_dropout} drops elements of the input, which the weight form never sees; "
                "use form: edit or factor (or auto), or weight_dropout instead"
            )

    @property
    def scale(self) -> float:
        """The scale s: alpha / rank, or 1 where alpha is None."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def _settle_generator(self) -> None:
        generator, options = unwrap(self.generator, self.generator_options)
        factory = resolve_generator(generator)
        check_options(factory, options)
        object.__setattr__(self, "generator", generator)
        object.__setattr__(self, "generator_options", options)
        if self.zero is None:
            object.__setattr__(self, "zero", default_zero(factory))

    def _check_choice(self, name: str, literal: Any) -> None:
        value, allowed = getattr(self, name), get_args(literal)
        if value not in allowed:
            close = get_close_matches(str(value), allowed, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}{hint}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types; a generator is written as its import path."""
        fields = dataclasses.asdict(self)
        if not isinstance(self.generator, str):
            fields["generator"] = path_of(self.generator)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> AdapterConfig:
        """Builds the config from :meth:`to_dict`'s output.

        Raises:
            ValueError: a key is unknown, so that a file from a later version is never half understood.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        for key in fields:
            if key not in known:
                close = get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(known)}"
                raise ValueError(f"adapter config has no field {key!r}; {hint}")
        return cls(**fields)


def _sizes(layer: str, sizes: Any) -> dict[str, int]:
    named = isinstance(sizes, Mapping)
    wrong = sizes if not named else next((size for size in sizes.values() if type(size) is not int or size < 1), None)
    if wrong is not None or not sizes:
        raise ValueError(
            f"fused: {layer} needs its parts' names with sizes of at least 1, such as {{q: 64, k: 64, v: 64}}, got "
            f"{dict(sizes) if named else sizes!r}"
        )
    return dict(sizes)
