"""The two file formats of the authors' own code, read without running anything in them.

Vision (their timm wrapper): a state dict with ``in_projections.KEY.weight`` (R, I), ``out_projections.KEY.weight``
(I, R) and ``hypernets.KEY.blocks...`` between them, KEY a trailing part of module names with ``:`` for ``.``. Language
(their PEFT fork): ``MODULE.wegeft_phi.weight`` and ``MODULE.wegeft_psi.weight``, both (R, I), at the first layer of
each group that shares them, beside an ``adapter_config.json``.

Shapes: I in features, D edited width, R rank.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wegeft_pl.adapter.storage import check_finite, read_json, read_tensors

_PROJECTION = re.compile(r"^(?P<prefix>(?:.+\.)?)(?P<part>in|out)_projections\.(?P<key>[^.]+)\.(?P<what>weight|bias)$")
_BLOCK = re.compile(r"^(?P<prefix>(?:.+\.)?)hypernets\.(?P<key>[^.]+)\.(?P<rest>.+)$")
_FACTOR = re.compile(r"^(?P<module>.+)\.wegeft_(?P<part>phi|psi)(?:\.(?P<adapter>[^.]+))?\.(?P<what>weight|bias)$")
#: What data parallelism, compilation, PEFT and outer wrappers put before names.
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|base_model\.model)\.)+")
#: The names under which a training script keeps a state dict, the one to prefer first.
_STATES = ("state_dict", "model", "module", "state_dict_ema", "model_ema")
#: What the options of the authors' scripts are called before their own name, by revision of the code.
_OPTION_PREFIXES = ("hypernet_block_", "gift_block_", "wegeft_block_", "hypernet_", "gift_", "wegeft_")
#: The files that a folder may hold, the one to prefer first.
_FILES = ("adapter_model.safetensors", "adapter_model.bin", "last.pth.tar", "model_best.pth.tar", "checkpoint.pth")


@dataclass
class ReferenceGenerator:
    """One generator of a file, in this project's orientation.

    Args:
        phi: (D, R), the transpose of what their first linear layer holds.
        psi: (R, D).
        biases: the biases that the two layers may have, by ``"phi"`` (R,) and ``"psi"`` (D,).
        blocks: tensors of what lies between them, by name; empty for the linear generator.
    """

    phi: Tensor
    psi: Tensor
    biases: dict[str, Tensor] = field(default_factory=dict)
    blocks: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class ReferenceFile:
    """What a file of either format holds.

    Args:
        path: the file.
        kind: ``"vision"`` or ``"language"``.
        generators: by the file's own key: a part of module names (vision), a whole module name (language).
        head: every other tensor that was trained, by its name in the backbone.
        options: what the training script was called with, or the adapter's config; empty where the file has none.
        state: which of its state dicts was read; ``""`` where it is one itself.
        facts: what else it says about itself (architecture, epoch, metric).
    """

    path: Path
    kind: str
    generators: dict[str, ReferenceGenerator]
    head: dict[str, Tensor]
    options: dict[str, Any]
    state: str
    facts: dict[str, Any]


def read_reference(path: str | Path, *, ema: bool = False) -> ReferenceFile:
    """Reads a checkpoint of the authors' code: tensors, plain types and an argparse.Namespace, nothing else.

    Args:
        path: the file, or a folder that holds one (``adapter_model.*``, ``last.pth.tar``, ``checkpoint.pth``, or
            the only ``*.pth.tar`` in it).
        ema: read the moving average of the weights instead; a file that has nothing else is read without it too.

    Returns:
        The file's content, tensors in the dtype they were saved in.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read safely, is of neither format, or lacks a part.
    """
    found = _find(Path(path))
    content = _load(found)
    state, where = _state_dict(content, found, ema)
    check_finite(state, str(found))
    about = {name: content[name] for name in ("arch", "epoch", "metric") if name in content and where}
    facts: dict[str, Any] = {name: value for name, value in about.items() if isinstance(value, (str, int, float))}
    if any(_FACTOR.match(name) for name in state):
        generators, head = _language(state, found)
        options = _config_beside(found, ("wegeft_alpha", "peft_type"))
        return ReferenceFile(found, "language", generators, head, options, where, facts)
    generators, head = _vision(state, found)
    options = _script_options(content.get("args"), found) if where else {}
    options = options or _gift_options(_config_beside(found, ("gift_parameters", "wegeft_parameters")))
    return ReferenceFile(found, "vision", generators, head, options, where, facts)


def _find(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        return path
    for name in _FILES:
        if (path / name).is_file():
            return path / name
    only = sorted(path.glob("*.pth.tar"))
    if len(only) == 1:
        return only[0]
    raise FileNotFoundError(
        f"{path} holds none of {', '.join(_FILES)} and {len(only) or 'no'} *.pth.tar; give the file itself"
    )


def _load(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return dict(read_tensors(path))
    # On leaving, safe_globals takes away what it was given even where the caller had allowed it before.
    known: bool = argparse.Namespace in torch.serialization.get_safe_globals()
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [] if known else [argparse.Namespace]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # RuntimeError, EOFError, KeyError and what unpickling raises
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise ValueError(
                f"{path} holds a {found[1]}, and nothing but tensors, plain types and argparse.Namespace is read; save "
                "its state dict alone"
            ) from error
        raise ValueError(f"{path} is truncated or no torch file ({type(error).__name__}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint; save the state dict")
    return content


def _state_dict(content: dict[str, Any], path: Path, ema: bool) -> tuple[dict[str, Tensor], str]:
    if any(isinstance(value, Tensor) for value in content.values()):
        if ema:
            raise ValueError(f"{path} is a bare state dict and holds no moving average; leave ema out")
        return {name: value for name, value in content.items() if isinstance(value, Tensor)}, ""
    states = {name: content[name] for name in _STATES if isinstance(content.get(name), Mapping)}
    averaged = {name: state for name, state in states.items() if name.endswith("_ema")}
    chosen = averaged if ema else states
    if not chosen:
        wanted = "state_dict_ema" if ema else "state_dict"
        raise ValueError(f"{path} has no {wanted}; it holds {', '.join(map(str, list(content)[:8])) or 'nothing'}")
    name, state = next(iter(chosen.items()))
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}, name


def _vision(state: dict[str, Tensor], path: Path) -> tuple[dict[str, ReferenceGenerator], dict[str, Tensor]]:
    layers: dict[str, dict[str, Tensor]] = {}
    blocks: dict[str, dict[str, Tensor]] = {}
    prefixes, head = set(), {}
    for name, tensor in state.items():
        if match := _PROJECTION.match(name):
            layers.setdefault(match["key"], {})[f"{match['part']}.{match['what']}"] = tensor
            prefixes.add(match["prefix"])
        elif match := _BLOCK.match(name):
            blocks.setdefault(match["key"], {})[match["rest"]] = tensor
            prefixes.add(match["prefix"])
        else:
            head[name] = tensor
    if not layers:
        raise ValueError(
            f"{path} has neither in_projections/out_projections nor wegeft_phi/wegeft_psi tensors; it holds "
            f"{', '.join(list(state)[:4]) or 'no tensors'}"
        )
    if len(prefixes) > 1:
        raise ValueError(f"{path} holds generators under several names: {', '.join(sorted(prefixes))}; keep one")
    generators = {}
    for key, parts in layers.items():
        for needed in ("in.weight", "out.weight"):
            if needed not in parts:
                raise ValueError(f"{path}: {key} has no {needed.replace('.', '_projections.' + key + '.')}; it was cut")
        biases = {
            name: parts[f"{part}.bias"] for name, part in (("phi", "in"), ("psi", "out")) if f"{part}.bias" in parts
        }
        generators[key] = ReferenceGenerator(parts["in.weight"].T, parts["out.weight"].T, biases, blocks.pop(key, {}))
    if blocks:
        raise ValueError(f"{path} has hypernets.{next(iter(blocks))} but no projections of that name; it was cut")
    prefix = prefixes.pop()
    named = {name.removeprefix(prefix).removeprefix("backbone."): tensor for name, tensor in head.items()}
    return generators, named


def _language(state: dict[str, Tensor], path: Path) -> tuple[dict[str, ReferenceGenerator], dict[str, Tensor]]:
    layers: dict[str, dict[str, Tensor]] = {}
    adapters, head = set(), {}
    for name, tensor in state.items():
        if match := _FACTOR.match(name):
            if match["what"] == "bias":
                raise ValueError(f"{path}: {name} is a bias, which this format never had; the file is another tool's")
            layers.setdefault(_WRAPPERS.sub("", match["module"]), {})[match["part"]] = tensor
            adapters.add(match["adapter"])
        else:
            if ".original_module." not in name:  # PEFT's copy of what modules_to_save replaces
                name = _WRAPPERS.sub("", name).replace(".base_layer.", ".")
                head[re.sub(r"\.modules_to_save\.[^.]+\.", ".", name)] = tensor
    if len(adapters) > 1:
        raise ValueError(f"{path} holds several adapters ({', '.join(map(str, sorted(map(str, adapters))))}); save one")
    generators = {}
    for module, parts in layers.items():
        for needed in ("phi", "psi"):
            if needed not in parts:
                raise ValueError(f"{path}: {module} has no wegeft_{needed}; the file was cut")
        generators[module] = ReferenceGenerator(parts["phi"].T, parts["psi"])
    return generators, head


def _config_beside(path: Path, marks: tuple[str, ...]) -> dict[str, Any]:
    """The first config near a file that has one of the marks; empty where there is none."""
    for name in ("adapter_config.json", "config/config.json", "config.json"):
        if (path.parent / name).is_file():
            config = read_json(path.parent / name)
            if any(mark in config for mark in marks):
                return config
    return {}


def _script_options(args: Any, path: Path) -> dict[str, Any]:
    """The method's options out of a training script's arguments, under the names of the code's own config."""
    if args is None:
        return {}
    if not isinstance(args, (argparse.Namespace, Mapping)):
        raise ValueError(f"{path}: args is a {type(args).__name__}, expected an argparse.Namespace or a dict")
    given = dict(args) if isinstance(args, Mapping) else vars(args)
    options = {}
    for name, value in given.items():
        prefix = next((prefix for prefix in _OPTION_PREFIXES if str(name).startswith(prefix)), None)
        if prefix is not None:
            options[str(name).removeprefix(prefix)] = value
    return options


def _gift_options(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("gift_parameters") or config.get("wegeft_parameters") or {}
    return {**config, **inner}
