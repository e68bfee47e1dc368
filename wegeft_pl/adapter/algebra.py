"""What can be computed with linear adapters without their base: everything is in phi and psi.

An adapter of linear generators is the edit E = I + s phi psi of every layer of a group, W' = W E on the input side and
W' = E W on the output side. Edits multiply, add up, have inverses and can be cut to a smaller rank, all in matrices of
D (R1 + R2) and (R1 + R2)^2 numbers. Every function takes and returns :class:`SavedAdapter`, in float64; exact means
equal in exact arithmetic, and :meth:`SavedAdapter.write` rounds each factor to float32 once, 6e-8 of each element.

Shapes: D edited width, R rank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wegeft_pl.adapter.certificate import edit_condition
from wegeft_pl.adapter.saved import Factors, SavedAdapter

Pair = tuple[Tensor, Tensor]


def compose(first: SavedAdapter, second: SavedAdapter, *, any_base: bool = False) -> SavedAdapter:
    """Joins two adapters into the one that equals ``second`` on top of ``first``'s merged weights. Exact.

    The order matters. Input side: W E1 E2 = W (I + phi psi) with phi = [s1 phi1, s2 (phi2 + s1 phi1 psi1 phi2)] and
    psi = [psi1; psi2]. Output side: E2 E1 W with phi = [s1 phi1, s2 phi2] and psi = [psi1; psi2 + s1 psi2 phi1 psi1].

    Args:
        first: the adapter that is merged first; the result belongs to its base.
        second: the adapter that works on what ``first`` gives.
        any_base: accept two fingerprints, as of a second adapter that was trained on the merged model.

    Returns:
        An adapter of rank R1 + R2 and s = 1.

    Raises:
        ValueError: the two have different groups, sides or (unless asked) bases, or train modules in full.
    """
    _check_pair(first, second, any_base)
    s1, s2 = first.config.scale, second.config.scale

    def join(one: Factors, two: Factors) -> Pair:
        if first.config.side == "input":
            phi2 = s2 * (two.phi + s1 * one.phi @ (one.psi @ two.phi))
            return torch.cat([s1 * one.phi, phi2], dim=1), torch.cat([one.psi, two.psi])
        psi2 = two.psi + s1 * (two.psi @ one.phi) @ one.psi
        return torch.cat([s1 * one.phi, s2 * two.phi], dim=1), torch.cat([one.psi, psi2])

    return _joined(first, second, join, {"composed": "the second on the first's merged weights"})


def add(
    first: SavedAdapter, second: SavedAdapter, weights: tuple[float, float] = (1.0, 1.0), *, any_base: bool = False
) -> SavedAdapter:
    """Adds two adapters' changes up: W' = W + w1 (W1' - W) + w2 (W2' - W). Exact, and the order does not matter.

    Args:
        first: an adapter; the result belongs to its base.
        second: another one.
        weights: w1 and w2, any numbers: (1 - t, t) interpolates, (1, -1) subtracts.
        any_base: accept two fingerprints.

    Returns:
        An adapter of rank R1 + R2 and s = 1.

    Raises:
        ValueError: as for :func:`compose`.
    """
    _check_pair(first, second, any_base)
    w1, w2 = weights[0] * first.config.scale, weights[1] * second.config.scale

    def join(one: Factors, two: Factors) -> Pair:
        return torch.cat([w1 * one.phi, w2 * two.phi], dim=1), torch.cat([one.psi, two.psi])

    return _joined(first, second, join, {"added": list(weights)})


def interpolate(first: SavedAdapter, second: SavedAdapter, t: float, *, any_base: bool = False) -> SavedAdapter:
    """Goes the part ``t`` of the way from ``first``'s weights to ``second``'s: :func:`add` with (1 - t, t). Exact."""
    return add(first, second, (1 - t, t), any_base=any_base)


def negate(adapter: SavedAdapter) -> SavedAdapter:
    """Turns the change around: W' = W - s W phi psi. Exact, without any rounding; not the inverse edit.

    Raises:
        ValueError: modules are trained in full, whose change is not known without the base.
    """
    _check_generators_alone(adapter)
    return _mapped(adapter, lambda factors: (-factors.phi, factors.psi), {"negated": True})


def invert(adapter: SavedAdapter) -> SavedAdapter:
    """Makes the adapter that undoes this one on its merged weights: E^-1 = I - s phi (I + s psi phi)^-1 psi, of rank R.

    Exact by the Woodbury identity; in float64 up to the condition number of E times 1e-16.

    Raises:
        ValueError: an edit is nearly singular, or modules are trained in full.
    """
    _check_generators_alone(adapter)
    scale = adapter.config.scale

    def inverse(factors: Factors) -> Pair:
        condition = edit_condition(factors.phi, factors.psi, scale)
        if not condition < 1e6:
            raise ValueError(
                f"group of {factors.sites[0]}: I + s phi psi is nearly singular (condition {condition:.1e}), so there "
                "is no adapter that undoes it; keep the base"
            )
        core = torch.eye(len(factors.psi), dtype=factors.psi.dtype) + scale * factors.psi @ factors.phi
        return -factors.phi, torch.linalg.solve(core, factors.psi)

    return _mapped(adapter, inverse, {"inverted": True})


@dataclass(frozen=True)
class Truncation:
    """What a recompression lost, of one group; no layer's weight moves by more than ``spectral`` ||W||.

    Args:
        spectral: sigma of the first direction left out of s phi psi: ||E - E'|| in the spectral norm, exactly.
        frobenius: ||E - E'|| in the Frobenius norm, exactly.
        relative: ``frobenius`` over ||s phi psi||; 0 for a zero change.
    """

    spectral: float
    frobenius: float
    relative: float


def recompress(adapter: SavedAdapter, rank: int) -> tuple[SavedAdapter, dict[str, Truncation]]:
    """Cuts the rank down with the smallest possible ||E - E'||, by one SVD of an R x R matrix for each group.

    The best for the edit (Eckart-Young), whatever W is; for one particular W another cut may be better. The factors of
    the result are balanced: phi^T phi = psi psi^T, diagonal.

    Args:
        adapter: the adapter, usually a composed one. What is trained in full stays as it is.
        rank: the new rank, at most the old one.

    Returns:
        An adapter of that rank and s = 1, and the exact errors by group.

    Raises:
        ValueError: the rank is not between 1 and the adapter's.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= adapter.config.rank:
        raise ValueError(f"rank must be an integer from 1 to the adapter's {adapter.config.rank}, got {rank!r}")
    losses = {}
    for name, factors in adapter.groups.items():
        values = _spectrum(factors, adapter.config.scale)[1]
        lost, norm = float(values[rank:].norm()), float(values.norm())
        first = float(values[rank]) if rank < len(values) else 0.0
        losses[name] = Truncation(first, lost, lost / norm if norm else 0.0)

    def cut(factors: Factors) -> Pair:
        left, values, right = _spectrum(factors, adapter.config.scale)
        missing = max(0, rank - len(values))  # a rank above the width
        root = values[:rank].sqrt()
        phi, psi = left[:, :rank] * root, root[:, None] * right[:rank]
        return torch.nn.functional.pad(phi, (0, missing)), torch.nn.functional.pad(psi, (0, 0, 0, missing))

    return _mapped(adapter, cut, {"recompressed_to_rank": rank}, rank=rank), losses


def _spectrum(factors: Factors, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """The thin SVD of s phi psi (D, D): left (D, K), values (K,), right (K, D) with K = min(D, R)."""
    left, a = torch.linalg.qr(factors.phi)
    right, b = torch.linalg.qr(factors.psi.T)
    u, values, vh = torch.linalg.svd(scale * a @ b.T)
    return left @ u, values, vh @ right.T


def _check_pair(first: SavedAdapter, second: SavedAdapter, any_base: bool) -> None:
    for adapter in (first, second):
        _check_generators_alone(adapter)
    if first.config.side != second.config.side:
        raise ValueError(
            f"one adapter edits the {first.config.side} side and the other the {second.config.side} side; "
            "merge one of them"
        )
    for name in [*first.groups, *second.groups]:
        one, two = first.groups.get(name), second.groups.get(name)
        if one is None or two is None or one.sites != two.sites:
            raise ValueError(
                f"group {name} is not the same in both adapters; they must have equal targets, layers and sharing "
                f"({', '.join(first.groups)} and {', '.join(second.groups)}), or merge one of them"
            )
        if one.phi.shape[0] != two.phi.shape[0]:
            raise ValueError(
                f"group {name} has width {one.phi.shape[0]} in one adapter and {two.phi.shape[0]} in the other"
            )
    if not any_base:
        try:
            first.base.check(second.base, "the first adapter")
        except ValueError as error:
            raise ValueError(
                f"the adapters belong to different bases ({first.base.short()} and {second.base.short()}); with "
                "any_base=True (--any_base) the result belongs to the first one's"
            ) from error


def _check_generators_alone(adapter: SavedAdapter) -> None:
    if adapter.trained:
        raise ValueError(
            f"the adapter trains {next(iter(adapter.trained))} in full ({len(adapter.trained)} tensors), and only "
            "generators can be computed with; merge it instead"
        )


def _joined(
    first: SavedAdapter, second: SavedAdapter, join: Callable[[Factors, Factors], Pair], step: dict[str, object]
) -> SavedAdapter:
    # The second one's past stays with it: a history is one line of steps.
    step = step | {"second": list(second.history)} if second.history else step
    joined = _mapped(
        first,
        lambda factors: join(factors, second.groups[_name_of(first, factors)]),
        step,
        rank=first.config.rank + second.config.rank,
    )
    # What only one of them is about does not hold for both together.
    return dataclasses.replace(joined, about={k: v for k, v in first.about.items() if second.about.get(k, ...) == v})


def _name_of(adapter: SavedAdapter, factors: Factors) -> str:
    return next(name for name, other in adapter.groups.items() if other is factors)


def _mapped(
    adapter: SavedAdapter, change: Callable[[Factors], Pair], step: dict[str, object], rank: int | None = None
) -> SavedAdapter:
    """The adapter with new factors for every group; a new rank comes with s = 1, folded into the factors."""
    groups = {}
    for name, factors in adapter.groups.items():
        phi, psi = change(factors)
        groups[name] = dataclasses.replace(factors, phi=phi, psi=psi)
    config = adapter.config
    if rank is not None:
        # Dropout belonged to the training that is over, and dropout of weights would forbid the edit form.
        form = "auto" if config.weight_dropout else config.form
        config = dataclasses.replace(config, rank=rank, alpha=None, input_dropout=0.0, weight_dropout=0.0, form=form)
    return dataclasses.replace(adapter, config=config, groups=groups, history=(*adapter.history, step))
