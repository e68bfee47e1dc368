"""How a trainer section is read, and what each column of a plan is."""

from __future__ import annotations

from typing import Any

import pytest

from wegeft_pl.accounting import MemoryEstimate
from wegeft_pl.accounting.communication import Piece, Unit
from wegeft_pl.cli.plan_devices import columns, own_devices

UNITS = [Unit("", (Piece(16, 1, False), Piece(8, 4, True))), Unit("0", (Piece(800, 1, False),))]
OURS = "wegeft_pl.distributed.WeGeFTFSDPStrategy"
ONE = MemoryEstimate(8000, 80, 160, 1000)


def section(strategy: Any, **fields: Any) -> dict[str, Any]:
    return {"devices": 8, "num_nodes": 1, "strategy": strategy, "accumulate_grad_batches": None} | fields


def test_a_sharded_recipe_stands_among_the_others() -> None:
    shown = columns(own_devices(section("wegeft_fsdp", accumulate_grad_batches=4)), (1, 8, 64))
    assert [devices.title for devices in shown.values()] == [
        "1 device", "8 devices\nsharded\n(this recipe)", "64 devices\nsharded"
    ]  # fmt: skip
    assert shown[1].memory(ONE, UNITS) == ONE
    eight = shown[8].memory(ONE, UNITS)
    assert (eight.weights, eight.gradients, eight.optimizer, eight.activations) == (1000, 10, 20, 1000)
    assert eight.gathered == (16 + 32) + 2 * 800 + 32
    assert shown[8].communication(UNITS).all_gathers == 4 * 3
    assert shown[1].communication(UNITS).received == 0


def test_copies_and_blocks_that_stay_whole() -> None:
    fields = {"replicas": 4, "reshard_after_forward": False, "cpu_offload": True}
    own = own_devices(section({"class_path": OURS, "init_args": fields}, num_nodes=2))
    shown = columns(own, (1, 8, 64))
    assert list(shown) == [1, 8, 16, 64]
    assert shown[16].title == "16 devices\n4 copies of 4 shards\n(this recipe)"
    assert (shown[16].shards, shown[8].shards, shown[16].cpu_offload, shown[8].cpu_offload) == (4, 8, True, False)
    assert shown[16].memory(ONE, UNITS).weights == 2000
    sent = shown[16].communication(UNITS)
    assert (sent.all_gathers, sent.all_reduces, sent.all_reduce_bytes) == (2, 1, 32 // 4)
    with pytest.raises(ValueError, match=r"trainer\.strategy: replicas 3 does not divide 8 devices; choose a divisor"):
        own_devices(section({"class_path": OURS, "init_args": {"replicas": 3}}))


def test_data_parallelism_stands_in_the_place_of_one_device() -> None:
    shown = columns(own_devices(section("ddp", devices=[0, 1, 2], num_nodes=2)), (1, 8))
    assert [devices.title for devices in shown.values()] == [
        "6 devices\neach has all\n(this recipe)", "6 devices\nsharded", "8 devices\nsharded"
    ]  # fmt: skip
    assert shown[1].memory(ONE, UNITS) == ONE
    assert shown[1].communication(UNITS).received == 2 * 32 * 5 // 6
    assert columns(own_devices(section(None, devices="auto")), (1,))[1].title == "1 device\n(this recipe)"
