"""The arguments of a recipe's command before anything parses them: which are recipes, which are options."""

from __future__ import annotations

_FLAGS = ("--config", "-c")


def split_recipes(args: list[str]) -> tuple[list[str], list[str]]:
    """Separates the recipes from the options.

    Args:
        args: the arguments after the command.

    Returns:
        The arguments that name recipes, and the others, each in their order.

    >>> split_recipes(["--adapter.rank", "4", "--config", "a", "-c=b"])
    (['--config', 'a', '-c=b'], ['--adapter.rank', '4'])
    """
    recipes: list[str] = []
    options: list[str] = []
    rest = iter(args)
    for arg in rest:
        if arg in _FLAGS:
            recipes += [arg, *(value for value in [next(rest, None)] if value is not None)]
        elif arg.startswith(tuple(f"{flag}=" for flag in _FLAGS)):
            recipes.append(arg)
        else:
            options.append(arg)
    return recipes, options


def recipes_first(args: list[str]) -> list[str]:
    """Moves the recipes to the front, so that an option wins over every recipe wherever it stands."""
    recipes, options = split_recipes(args)
    return [*recipes, *options]


def recipe_names(args: list[str]) -> list[str]:
    """Returns the names of the recipes.

    >>> recipe_names(["--config", "a", "--adapter.rank", "4", "-c=b", "--config"])
    ['a', 'b']
    """
    names = [arg.split("=", 1)[1] if "=" in arg and arg.startswith("-") else arg for arg in split_recipes(args)[0]]
    return [name for name in names if name not in _FLAGS]
