"""Strategies that adapters do not train under are refused by name, before Lightning looks for a GPU."""

from __future__ import annotations

import pytest

from wegeft_pl.cli.failure import UsageError
from wegeft_pl.cli.strategy_name import check_strategy_name


@pytest.mark.parametrize("name", ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_3", "model_parallel"])
def test_other_ways_to_shard(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' shards in another way; use wegeft_fsdp, or ddp"):
        check_strategy_name(name)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match=r"no strategy 'wegeft_fdsp'; did you mean 'wegeft_fsdp'\?"):
        check_strategy_name("wegeft_fdsp")
    with pytest.raises(UsageError, match="no strategy 'zzzz'; use auto, ddp or wegeft_fsdp"):
        check_strategy_name("zzzz")


def test_others_pass() -> None:
    for strategy in ("auto", "ddp", "wegeft_fsdp", {"class_path": "some.Strategy"}):
        check_strategy_name(strategy)
