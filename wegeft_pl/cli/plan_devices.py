"""The devices of a plan: how many a recipe asks for, how they share the model, and what each then holds and sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from wegeft_pl.accounting import MemoryEstimate
from wegeft_pl.accounting.communication import Communication, Unit, ddp_step, fsdp_step, gathered_bytes

#: What marks a strategy that spreads weights, gradients and optimiser over devices.
SHARDED = ("fsdp", "model_parallel", "modelparallel", "deepspeed")


@dataclass(frozen=True)
class Devices:
    """One way to run a recipe.

    Args:
        count: devices, over all machines.
        sharded: whether they spread the weights; else each device holds all of them.
        replicas: copies of the weights where they are spread.
        micro_batches: of one device in one optimiser step.
        reshard_after_forward: see the strategy.
        cpu_offload: whether shards lie in host memory.
        is_own: whether the recipe itself asks for this.
    """

    count: int
    sharded: bool
    replicas: int = 1
    micro_batches: int = 1
    reshard_after_forward: bool = True
    cpu_offload: bool = False
    is_own: bool = False

    @property
    def shards(self) -> int:
        """Devices that share one copy of the weights."""
        return self.count // self.replicas if self.sharded else 1

    @property
    def title(self) -> str:
        """What stands above a column, in lines."""
        lines = ["1 device" if self.count == 1 else f"{self.count} devices"]
        if self.sharded:
            lines.append(f"{self.replicas} copies of {self.shards} shards" if self.replicas > 1 else "sharded")
        elif self.count > 1:
            lines.append("each has all")
        return "\n".join([*lines, "(this recipe)"] if self.is_own else lines)

    def communication(self, units: Sequence[Unit]) -> Communication:
        """What is sent in one optimiser step."""
        if not self.sharded:
            return ddp_step(units, self.count)
        return fsdp_step(
            units,
            self.shards,
            replicas=self.replicas,
            micro_batches=self.micro_batches,
            reshard_after_forward=self.reshard_after_forward,
        )

    def memory(self, one: MemoryEstimate, units: Sequence[Unit]) -> MemoryEstimate:
        """What one device holds.

        Args:
            one: what a single device would hold.
            units: of the same model.
        """
        if not self.sharded:
            return one
        return replace(
            one,
            weights=-(-one.weights // self.shards),
            gradients=-(-one.gradients // self.shards),
            optimizer=-(-one.optimizer // self.shards),
            gathered=gathered_bytes(
                units,
                self.shards,
                micro_batches=self.micro_batches,
                reshard_after_forward=self.reshard_after_forward,
                activations=one.activations or 0,
            ),
        )


def own_devices(trainer_config: dict[str, Any]) -> Devices:
    """Reads what a trainer section asks for.

    Raises:
        ValueError: the strategy's copies do not divide the devices.
    """
    strategy = trainer_config.get("strategy")
    fields: dict[str, Any] = (strategy.get("init_args") or {}) if isinstance(strategy, dict) else {}
    count, sharded = device_count(trainer_config), is_sharded_recipe(trainer_config)
    replicas = int(fields.get("replicas") or 1)
    if sharded and count % replicas:
        raise ValueError(f"trainer.strategy: replicas {replicas} does not divide {count} devices; choose a divisor")
    return Devices(
        count,
        sharded,
        replicas if sharded else 1,
        int(trainer_config.get("accumulate_grad_batches") or 1),
        fields.get("reshard_after_forward") is not False,
        fields.get("cpu_offload") is True,
        is_own=True,
    )


def columns(own: Devices, counts: Sequence[int]) -> dict[int, Devices]:
    """What a plan shows: one device, others sharded, and the recipe's own in its place.

    Args:
        own: of the recipe.
        counts: further numbers of devices; 1 is among them.

    Returns:
        By number of devices, in order; a recipe that does not share its weights stands in the place of one device.
    """
    others = {
        count: replace(own, count=count, sharded=count > 1, replicas=1, is_own=False, cpu_offload=False)
        for count in counts
    }
    if own.sharded:
        return dict(sorted((others | {own.count: own}).items()))
    sharded = {own.count: replace(own, sharded=True, is_own=False)} if own.count > 1 else {}
    return dict(sorted((sharded | others | {1: own}).items()))


def device_count(trainer_config: dict[str, Any]) -> int:
    """How many devices a trainer section asks for, over all machines."""
    devices = trainer_config.get("devices", 1)
    per_node = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1
    return max(1, per_node) * int(trainer_config.get("num_nodes") or 1)


def is_sharded_recipe(trainer_config: dict[str, Any]) -> bool:
    """Whether a trainer section names a strategy that spreads the weights."""
    strategy = trainer_config.get("strategy") or "auto"
    name = strategy.get("class_path", "") if isinstance(strategy, dict) else str(strategy)
    return any(word in name.lower() for word in SHARDED)
