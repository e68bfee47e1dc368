"""inject: the one function that puts an adapter on a backbone."""

from __future__ import annotations

import importlib
from difflib import get_close_matches

from torch import nn

from wegeft_pl.adapter.adapter import Adapter, adapter_of
from wegeft_pl.adapter.config import AdapterConfig
from wegeft_pl.adapter.groups import Group, check_prefixes, group_names, host_of
from wegeft_pl.adapter.layout import layout_of
from wegeft_pl.adapter.owner import OWNER
from wegeft_pl.adapter.sites import Site
from wegeft_pl.adapter.targets import match_modules, match_targets
from wegeft_pl.adapter.trained import TrainedInFull
from wegeft_pl.generators import Generator


def inject(model: nn.Module, config: AdapterConfig) -> Adapter:
    """Freezes a backbone and edits the layers that the config names.

    The backbone keeps its classes, parameter names and values; at step 0 it computes exactly what it computed before.
    Inject before the model is sharded or wrapped. On a backbone built on the meta device the generators are real (they
    are small) and sit on the CPU until the model is moved.

    Args:
        model: any module; a Hugging Face or timm model, or your own.
        config: what to edit and what to share.

    Returns:
        The adapter, which can count, save, export and remove what was added.

    Raises:
        ValueError: the model already has an adapter, a name matches nothing, a layer cannot be edited, layers of
            unequal width would share a generator, or the generator and the config contradict each other.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> adapter = inject(model, AdapterConfig(targets=["0", "2"], rank=2))
        >>> adapter.num_parameters()
        32
    """
    if adapter_of(model) is not None or any(name.rpartition(".")[2] == OWNER for name, _ in model.named_modules()):
        raise ValueError("this model already has an adapter; call adapter.remove() before injecting another")
    generator_class = resolve_generator(config.generator)
    if not generator_class.can_edit:
        needing = "side: output" if config.side == "output" else "form: edit" if config.form == "edit" else None
        if needing:
            raise ValueError(
                f"{needing} needs a generator that is linear in W, and {generator_class.__name__} is not; "
                "use side: input with form: factor (or auto)"
            )
    matched = match_targets(model, config.targets, config.layers)
    trained = match_modules(model, config.also_train, "also_train") if config.also_train else {}
    for name in trained:
        inside = next((site for site in matched if site == name or site.startswith(name + ".")), None)
        if inside is not None:
            raise ValueError(f"also_train: {name} holds the target {inside}; a layer is edited or trained in full")
        if next(trained[name].parameters(), None) is None:
            kind = type(trained[name]).__name__
            raise ValueError(f"also_train: {name} is a {kind} without parameters, so there is nothing to train")
    layouts = {name: layout for name, module in matched.items() if (layout := layout_of(module)) is not None}
    groups = []
    for group_name, names in group_names(layouts, config).items():
        width = layouts[names[0]].width(config.side)
        device = next((p.device for p in matched[names[0]].parameters() if not p.is_meta), None)
        generator = generator_class(width, config.rank, config.zero, config.side)
        generator.float().to(device)
        sites = [Site(name, matched[name], layouts[name], generator, config) for name in names]
        groups.append(Group(group_name, generator, host_of(model, names), sites))
    check_prefixes(groups)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    # A module inside another one that is trained in full is trained with it.
    outer = [name for name in trained if not any(name.startswith(other + ".") for other in trained)]
    adapter = Adapter(model, config, groups, TrainedInFull.prepare(model, outer))
    adapter.attach()
    return adapter


def resolve_generator(generator: str | type[Generator]) -> type[Generator]:
    """Finds a generator class by its import path.

    Raises:
        ValueError: the module or class does not exist, or is not a Generator.
    """
    if isinstance(generator, type):
        found: object = generator
    else:
        module_name, _, class_name = generator.rpartition(".")
        try:
            module = importlib.import_module(module_name or "wegeft_pl.generators")
        except ImportError as error:
            raise ValueError(f"generator: cannot import {module_name!r} of {generator!r} ({error})") from error
        found = vars(module).get(class_name)
        if found is None:
            close = get_close_matches(class_name, list(vars(module)), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"generator: {module.__name__} has no class {class_name!r}{hint}")
    if not (isinstance(found, type) and issubclass(found, Generator)):
        raise ValueError(f"generator: {generator!r} is not a subclass of wegeft_pl.generators.Generator")
    return found
