"""Which layers of a model a reference checkpoint edits, with which of its generators, side and scale."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from wegeft_pl.adapter.layout import layout_of
from wegeft_pl.adapter.reference_files import ReferenceFile
from wegeft_pl.adapter.targets import ALL_LINEAR, block_index, type_pattern

#: The key of a generator that all targets of a vision file share.
SHARED = "shared_projection"


@dataclass(frozen=True)
class Placement:
    """What edits one layer.

    Args:
        key: the generator's name in the file.
        side: ``"input"`` or ``"output"``.
        scale: s.
    """

    key: str
    side: str = "input"
    scale: float = 1.0


def placements(
    file: ReferenceFile, model: nn.Module, targets: Sequence[str] | None, alpha: float | None, sharing: str | None
) -> dict[str, Placement]:
    """Finds the layers that a checkpoint edits.

    Args:
        file: the checkpoint.
        model: the backbone.
        targets: as in :func:`import_reference`.
        alpha: as there.
        sharing: as there.

    Returns:
        What edits each layer, by the layer's name in the model, in the model's order.

    Raises:
        ValueError: a generator finds no layer, a layer two generators, the file lacks what it needs, or an argument
            says what the file says already.
    """
    if isinstance(targets, str):
        raise ValueError(f"targets must be a list of names, got the string {targets!r}; write a list")
    if file.kind == "vision":
        return _vision(file, model, targets, alpha, sharing)
    return _language(file, model, targets, alpha, sharing)


def _vision(
    file: ReferenceFile, model: nn.Module, targets: Sequence[str] | None, alpha: float | None, sharing: str | None
) -> dict[str, Placement]:
    for name, value in (("alpha", alpha), ("sharing", sharing)):
        if value is not None:
            raise ValueError(f"{file.path} is of the vision format, which fixes {name}; leave {name} out")
    keys: dict[str, list[str]] = {key: [key.replace(":", ".")] for key in file.generators}
    if SHARED in keys:
        listed = _said(file, "targets", targets, file.options.get("target_modules"))
        keys[SHARED] = [str(target).replace(":", ".") for target in listed]
    elif targets is not None:
        raise ValueError(f"{file.path} names its targets ({', '.join(keys)}); leave targets out")
    layers = file.options.get("layers_to_transform")
    found: dict[str, Placement] = {}
    for key, names in keys.items():
        for target in names:
            hits = [name for name in _layers(model) if _chosen(name, target, layers)]
            if not hits:
                part = (
                    ", a part of a fused projection, which the authors' code could not run" if target in "qkv" else ""
                )
                raise ValueError(f"{file.path} edits {target}{part}; this model has {_known(model)}")
            for name in hits:
                if name in found:
                    raise ValueError(
                        f"{file.path}: {found[name].key} and {key} both edit {name}; the file is ambiguous"
                    )
                found[name] = Placement(key)
    return {name: found[name] for name in _layers(model) if name in found}


def _language(
    file: ReferenceFile, model: nn.Module, targets: Sequence[str] | None, alpha: float | None, sharing: str | None
) -> dict[str, Placement]:
    theirs = _names_there(file, model)  # by name here
    options = file.options
    listed = _said(file, "targets", targets, options.get("target_modules"))
    ties = _ties(file, sharing)
    found: dict[str, Placement] = {}
    owners: dict[str, list[str]] = {}
    for name, there in theirs.items():
        if _is_target(there, listed, options):
            owners.setdefault(_group(there, ties), []).append(name)
    for members in owners.values():
        owning = [theirs[name] for name in members if theirs[name] in file.generators]
        if len(owning) != 1:
            problem = (
                "has no generator" if not owning else f"has {len(owning)} generators ({', '.join(owning[:2])}, ...)"
            )
            raise ValueError(
                f"{file.path} {problem} for the group of {theirs[members[0]]} ({len(members)} layers), which its "
                "tied_modules and target_modules ask for; they belong to another file"
            )
        for name in members:
            found[name] = Placement(
                owning[0], _side(theirs[name], options), _scale(file, theirs[name], owning[0], alpha)
            )
    unused = set(file.generators) - {place.key for place in found.values()}
    if unused:
        raise ValueError(
            f"{file.path} edits {min(unused)}, which is no target of its adapter_config.json; they do not fit"
        )
    return {name: found[name] for name in theirs if name in found}


def _said(file: ReferenceFile, name: str, argument: Any, option: Any) -> Any:
    """What the file says, or else the caller."""
    if option is not None and argument is not None:
        raise ValueError(f"{file.path} names its {name} itself ({option}); leave {name} out")
    if option is None and argument is None:
        beside = " (no adapter_config.json lies beside it)" if file.kind == "language" else ""
        raise ValueError(f"{file.path} does not say its {name}{beside}; give {name}=...")
    return option if argument is None else argument


def _names_there(file: ReferenceFile, model: nn.Module) -> dict[str, str]:
    """The model's layers with the names that the file has for them: one leading part may be more or less."""
    layers = _layers(model)
    first = next(iter(file.generators))
    parts = first.split(".")
    for cut in range(len(parts)):  # a headless twin of the model: the file says model.layers.0, the model layers.0
        prefix = "".join(part + "." for part in parts[:cut])
        if all(key.startswith(prefix) and key.removeprefix(prefix) in layers for key in file.generators):
            return {name: prefix + name for name in layers}
    added = {name.removesuffix(first) for name in layers if name.endswith("." + first)}
    for prefix in sorted(added):
        if all(prefix + key in layers for key in file.generators):
            return {name: name.removeprefix(prefix) for name in layers if name.startswith(prefix)}
    missing = next((key for key in file.generators if key not in layers), first)
    raise ValueError(f"{file.path} edits {missing}; this model has {_known(model)}")


def _ties(file: ReferenceFile, sharing: str | None) -> list[list[str]] | str:
    if file.options:
        if sharing is not None:
            raise ValueError(f"{file.path} says its sharing itself (tied_modules); leave sharing out")
        ties = file.options.get("tied_modules") or []
        return [[entry] if isinstance(entry, str) else list(entry) for entry in ties]
    return str(_said(file, "sharing", sharing, None))


def _group(name: str, ties: list[list[str]] | str) -> str:
    if ties == "type":
        return type_pattern(name)
    if isinstance(ties, list):
        for patterns in ties:
            if any(re.match(pattern, name) for pattern in patterns):
                return "-".join(patterns)
    return name


def _is_target(name: str, targets: Sequence[str] | str, options: dict[str, Any]) -> bool:
    if isinstance(targets, str):
        if targets == ALL_LINEAR:
            return block_index(name) is not None
        return re.fullmatch(targets, name) is not None
    return any(_chosen(name, target, options.get("layers_to_transform")) for target in targets)


def _chosen(name: str, target: str, layers: int | Sequence[int] | None) -> bool:
    if not (name == target or name.endswith("." + target)):
        return False
    wanted = [layers] if isinstance(layers, int) else layers
    return not wanted or block_index(name) in wanted


def _side(name: str, options: dict[str, Any]) -> str:
    said = options.get("transform_dim") or "input"
    return str(said.get(name.rpartition(".")[2], "input") if isinstance(said, dict) else said)


def _scale(file: ReferenceFile, name: str, key: str, alpha: float | None) -> float:
    options, rank = file.options, file.generators[key].psi.shape[0]
    if "wegeft_alpha" not in options:
        return float(_said(file, "alpha", alpha, options.get("alpha"))) / rank
    if alpha is not None:
        raise ValueError(f"{file.path} says its alpha itself ({options['wegeft_alpha']}); leave alpha out")
    said = _pattern(options.get("rank_pattern"), name, options.get("r", rank))
    if said != rank:
        raise ValueError(f"{file.path}: {key} has rank {rank}, but its adapter_config.json says {said} for {name}")
    return float(_pattern(options.get("alpha_pattern"), name, options["wegeft_alpha"])) / rank


def _pattern(patterns: dict[str, Any] | None, name: str, default: Any) -> Any:
    return next((value for key, value in (patterns or {}).items() if re.match(rf".*\.{key}$", name)), default)


def _layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if name and layout_of(module) is not None]


def _known(model: nn.Module) -> str:
    leaves = list(dict.fromkeys(".".join(name.split(".")[-2:]) for name in _layers(model)))
    return ", ".join(leaves[:8]) + (", ..." if len(leaves) > 8 else "") if leaves else "no linear layer"
