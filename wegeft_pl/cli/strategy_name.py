"""The strategy that a recipe names, looked at before Lightning speaks of accelerators and packages."""

from __future__ import annotations

from lightning.pytorch.strategies import StrategyRegistry

from wegeft_pl.cli.close_match import did_you_mean
from wegeft_pl.cli.failure import UsageError
from wegeft_pl.distributed.strategy import NAME

#: How names of strategies begin that shard in a way of their own.
_OTHER_WAYS = ("fsdp", "deepspeed", "model_parallel", "modelparallel")


def check_strategy_name(strategy: object) -> None:
    """Refuses the name of a strategy that does not exist, or that adapters do not train under.

    Args:
        strategy: ``trainer.strategy`` of a recipe: a name, or a class path with its fields, which is not judged here.

    Raises:
        UsageError: says what to use instead.

    Example:
        >>> check_strategy_name("ddp")
        >>> check_strategy_name("fsdp")
        Traceback (most recent call last):
        ...
        wegeft_pl.cli.failure.UsageError: trainer.strategy: 'fsdp' shards in another way; use wegeft_fsdp, or ddp
    """
    if not isinstance(strategy, str):
        return
    if strategy.startswith(_OTHER_WAYS):
        raise UsageError(f"trainer.strategy: {strategy!r} shards in another way; use {NAME}, or ddp")
    known = {"auto", *StrategyRegistry.available_strategies()}
    if strategy not in known:
        hint = did_you_mean(strategy, known) or f"; use auto, ddp or {NAME}"
        raise UsageError(f"trainer.strategy: no strategy {strategy!r}{hint}")
