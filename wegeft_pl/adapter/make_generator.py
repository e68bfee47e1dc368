"""Makes the generator of one group from the adapter's config and the group's layers."""

from __future__ import annotations

from collections.abc import Mapping

from wegeft_pl.adapter.config import AdapterConfig
from wegeft_pl.adapter.generator_path import needs_rows, resolve_generator
from wegeft_pl.adapter.layout import Layout
from wegeft_pl.generators import Generator


def make_generator(config: AdapterConfig, group: str, layouts: Mapping[str, Layout]) -> Generator:
    """Makes a group's generator.

    Args:
        config: the adapter's.
        group: the group's name, for messages.
        layouts: the group's layers by name, of one width.

    Returns:
        The generator, its change zero.

    Raises:
        ValueError: the layers have unequal numbers of rows and the generator is built for one, an option has a value
            outside its range, or the generator is not linear in W where the config needs it.
    """
    factory = resolve_generator(config.generator)
    first, layout = next(iter(layouts.items()))
    options = dict(config.generator_options)
    if needs_rows(factory):
        options["rows"] = layout.rows(config.side)
        for name, other in layouts.items():
            if other.rows(config.side) != options["rows"]:
                raise ValueError(
                    f"{factory.__name__} is built for one number of rows, and in group {group} {first} has "
                    f"{options['rows']} and {name} has {other.rows(config.side)}; use sharing: type (or layer)"
                )
    generator = factory(layout.width(config.side), config.rank, config.zero, config.side, **options)
    if not isinstance(generator, Generator):
        raise ValueError(f"generator: {config.generator!r} made a {type(generator).__name__}, not a Generator")
    if not generator.can_edit:
        needing = "side: output" if config.side == "output" else "form: edit" if config.form == "edit" else None
        if needing:
            raise ValueError(
                f"{needing} needs a generator that is linear in W, and {type(generator).__name__} is not; "
                "use side: input with form: factor (or auto)"
            )
    return generator
