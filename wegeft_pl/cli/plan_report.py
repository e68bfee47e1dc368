"""What a run will train and need, from shapes alone: no weights, no data, no devices."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from wegeft_pl.accounting import MemoryEstimate, ParameterCount, bytes_text, count_parameters, estimate_memory
from wegeft_pl.adapter import Adapter
from wegeft_pl.tasks import AdapterCallback, FineTuneTask

#: Device counts that every plan shows beside the recipe's own.
DEVICE_COUNTS = (1, 8, 64)
#: What marks a strategy that spreads weights, gradients and optimiser over devices.
SHARDED = ("fsdp", "model_parallel", "modelparallel", "deepspeed")


def run_plan(
    task: FineTuneTask,
    adapter_callback: AdapterCallback | None,
    data_config: dict[str, Any],
    trainer_config: dict[str, Any],
    as_json: bool,
) -> None:
    """Builds the backbone on the meta device, injects, counts, and prints.

    Args:
        task: from the recipe; its backbone is built here, without weights.
        adapter_callback: from the recipe's ``adapter`` section, or None.
        data_config: the ``data`` section, not instantiated; its batch size and length set the activations.
        trainer_config: the ``trainer`` section, not instantiated; its devices and strategy set the shards.
        as_json: print one JSON object instead of tables.

    Raises:
        ValueError: the backbone or the adapter cannot be built.
    """
    task.backbone = task.build_backbone(meta=True)
    if adapter_callback is not None:
        task.use_adapter(adapter_callback.config())
    parameters = count_parameters(task, task.adapter)
    settings: dict[str, Any] = data_config.get("init_args", data_config)
    samples = int(settings.get("batch_size") or 1)
    tokens = settings.get("max_length") or settings.get("window")
    batch = None if tokens is None else task.example_batch(samples, int(tokens))
    loss = None if batch is None else lambda: task.training_loss(batch)
    one = estimate_memory(task, task.optimizer, loss)
    devices, sharded = _devices(trainer_config), _is_sharded(trainer_config)
    # Activations do not depend on the shards, and counting them is the slow part.
    by_devices = {
        count: replace(estimate_memory(task, task.optimizer, shards=count), activations=one.activations)
        for count in sorted({*DEVICE_COUNTS, devices})
    }
    chosen = by_devices[devices] if sharded else one
    saved = sum(tensor.nbytes for tensor in task.adapter.state_dict().values()) if task.adapter else 0
    facts = {
        "parameters": parameters.to_dict(),
        "memory_bytes": chosen.to_dict(),
        "memory_bytes_if_sharded_over": {str(count): estimate.to_dict() for count, estimate in by_devices.items()},
        "devices": devices,
        "sharded": sharded,
        "batch": {"samples": samples, "tokens": tokens},
        "files_bytes": {
            "adapter": saved,
            "checkpoint": saved + one.optimizer,
            "merged": _merged_bytes(task.backbone, task.adapter),
        },
        "backbone": task.backbone_name,
    }
    if as_json:
        json.dump(facts, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    _print(task, parameters, by_devices, facts)


def _devices(trainer_config: dict[str, Any]) -> int:
    devices = trainer_config.get("devices", 1)
    per_node = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1
    return max(1, per_node) * int(trainer_config.get("num_nodes") or 1)


def _is_sharded(trainer_config: dict[str, Any]) -> bool:
    strategy = trainer_config.get("strategy") or "auto"
    name = strategy.get("class_path", "") if isinstance(strategy, dict) else str(strategy)
    return any(word in name.lower() for word in SHARDED)


def _merged_bytes(backbone: nn.Module, adapter: Adapter | None) -> int:
    """Counts the merged model: the base's parameters, those trained beside the adapter in the base's own dtype."""
    sizes = {id(parameter): parameter.nbytes for parameter in backbone.parameters()}
    if adapter is not None:
        for group in adapter.groups:
            for parameter in group.generator.parameters():
                sizes.pop(id(parameter), None)
        for name, parameter in adapter.trained.named_parameters():
            sizes[id(parameter)] = parameter.numel() * adapter.trained.surroundings[name].itemsize
    return sum(sizes.values())


def _print(
    task: FineTuneTask, parameters: ParameterCount, by_devices: dict[int, MemoryEstimate], facts: dict[str, Any]
) -> None:
    console = Console()
    console.print(
        f"[bold]{task.backbone_name}[/]: {parameters.trainable:,} trainable, {parameters.frozen:,} frozen "
        f"([bold]{parameters.percent_of_frozen:.4f} %[/] of frozen)"
    )
    groups = Table("group", "sites", "in or out", "rank", "parameters", title="What is trained", title_justify="left")
    for column in groups.columns[1:]:
        column.justify = "right"
    for group in task.adapter.groups if task.adapter else []:
        sites, width = str(len(group.sites)), str(group.generator.width)
        groups.add_row(group.name, sites, width, str(group.generator.rank), f"{group.num_parameters:,}")
    if parameters.head:
        groups.add_row("trained in full", "", "", "", f"{parameters.head:,}")
    console.print(groups)
    batch = facts["batch"]
    title = f"Memory of one device, {batch['samples']} samples of {batch['tokens'] or '?'} tokens a micro-batch"
    memory = Table("", *(_device_title(count) for count in by_devices), title=title, title_justify="left")
    for column in memory.columns[1:]:
        column.justify = "right"
    for part in ("weights", "gradients", "optimizer", "activations", "peak"):
        cells = (bytes_text(estimate.to_dict()[part]) for estimate in by_devices.values())
        memory.add_row(part, *cells, style="bold" if part == "peak" else None)
    console.print(memory)
    console.print(
        "Activations are counted from shapes at full length with every token labelled, so an upper bound; CUDA's own "
        "context, workspaces and fragmentation come on top. Plain data parallelism (ddp) needs the first column on "
        "every device."
    )
    files = facts["files_bytes"]
    console.print(
        f"Files: adapter {bytes_text(files['adapter'])}, checkpoint {bytes_text(files['checkpoint'])}, "
        f"merged model {bytes_text(files['merged'])}."
    )


def _device_title(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices, sharded"
