"""Where memory runs out, the message names what takes it and what to do next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wegeft_pl.accounting import MemoryEstimate
from wegeft_pl.cli.out_of_memory import Plan, Recipe, Stage, explain, is_out_of_memory, next_lever

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.21 GiB is "
    "free. Including non-PyTorch memory, this process has 77.88 GiB memory in use."
)
CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
PLAN = Plan(MemoryEstimate(15 * 2**30, 2**20, 2**21, 60 * 2**30), torch.bfloat16)


def recipe(model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **trainer: Any) -> Recipe:
    """A recipe that has pulled no lever yet, with changes."""
    options = {
        "gradient_checkpointing": False,
        "activation_offload": False,
        "dtype": "float32",
        "quantize": None,
    } | (model or {})
    return Recipe(options, {"batch_size": 8, "max_length": 1024} | (data or {}), {"devices": 1} | trainer)


def test_the_message() -> None:
    text = explain(torch.OutOfMemoryError(CUDA), recipe(), "train", "cuda:0 at step 3", lambda: PLAN)
    assert text.splitlines() == [
        "out of memory on cuda:0 at step 3 (asked for 2.00 GiB more, the device has 79.10 GiB)",
        "plan: activations 60.0 GiB, weights 15.0 GiB, optimizer 2.0 MiB for 8 x 1024 tokens a micro-batch",
        "next: --model.gradient_checkpointing true",
        "(WEGEFT_PL_TRACEBACK=1 shows the device's own message)",
    ]


def test_a_plan_that_fails_does_not_hide_the_message() -> None:
    def fail() -> Plan:
        raise KeyError("a bug in the estimate")

    text = explain(RuntimeError(f"{CPU}4096 bytes."), recipe(), "train", "cpu at step 0", fail)
    assert text.splitlines()[:2] == [
        "out of memory on cpu at step 0 (asked for 4.0 KiB more)",
        "next: --model.gradient_checkpointing true",
    ]


def test_weights_are_shared_out_where_the_strategy_does_so() -> None:
    sharded = recipe(strategy="wegeft_fsdp", devices=4, num_nodes=2)
    text = explain(MemoryError(), sharded, "evaluate", "cuda:0 at step 0", lambda: PLAN)
    assert text.splitlines()[1] == "plan: weights 1.9 GiB"  # 15 / 8, and no backward pass in evaluation


#: The levers in order: what pulling each one changes in the recipe, and the option that says so.
LEVERS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("--model.gradient_checkpointing true", {"gradient_checkpointing": True}, {}),
    ("--data.batch_size 4 --trainer.accumulate_grad_batches 2", {}, {"batch_size": 1}),
    ("--model.activation_offload true", {"activation_offload": True}, {}),
    ("--model.dtype bfloat16", {"dtype": "bfloat16"}, {}),
    ("--model.quantize bnb-nf4", {"quantize": "bnb-nf4"}, {}),
    ("a shorter --data.max_length, a smaller base, or a device with more memory", {}, {}),
]


def test_levers_come_in_the_order_of_their_cost() -> None:
    model: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for option, model_change, data_change in LEVERS:
        assert next_lever(recipe(model, data), "train") == option
        model, data = model | model_change, data | data_change


def test_what_cannot_be_quantised_is_sharded() -> None:
    bare = Recipe({}, {"batch_size": 1}, {"devices": 2})  # a task without any of the levers
    assert next_lever(bare, "train") == ("--trainer.strategy wegeft_fsdp --trainer.devices 4, or as many as there are")
    sharded = Recipe({"quantize": None, "dtype": "bfloat16"}, {}, {"devices": 8, "strategy": "wegeft_fsdp"})
    assert next_lever(sharded, "load") == "more than 8 devices (--trainer.devices, --trainer.num_nodes)"


@pytest.mark.parametrize(
    ("samples", "accumulated", "option"),
    [
        (6, 1, "--data.batch_size 3 --trainer.accumulate_grad_batches 2"),
        (9, 4, "--data.batch_size 3 --trainer.accumulate_grad_batches 12"),
        (7, 1, "--data.batch_size 1 --trainer.accumulate_grad_batches 7"),
    ],
)
def test_a_smaller_micro_batch_keeps_the_step_as_it_is(samples: int, accumulated: int, option: str) -> None:
    asked = recipe({"gradient_checkpointing": True}, {"batch_size": samples}, accumulate_grad_batches=accumulated)
    assert next_lever(asked, "train") == option


@pytest.mark.parametrize(
    ("stage", "data", "dtype", "option"),
    [
        ("load", {}, torch.float32, "--model.dtype bfloat16"),
        ("load", {}, torch.bfloat16, "--model.quantize bnb-nf4"),
        ("evaluate", {"eval_batch_size": 16}, None, "--data.eval_batch_size 8"),
        ("evaluate", {"eval_batch_size": None}, None, "--data.eval_batch_size 4"),
        ("evaluate", {"eval_batch_size": 1}, None, "--model.dtype bfloat16"),
    ],
)
def test_levers_that_fit_the_stage(stage: Stage, data: dict[str, Any], dtype: torch.dtype | None, option: str) -> None:
    assert next_lever(recipe({"dtype": "auto"}, data), stage, dtype) == option


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(CUDA), True),
        (RuntimeError(f"{CPU}400 bytes. Error code 12 (Cannot allocate memory)"), True),
        (
            RuntimeError("data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("out of range"), False),
        (OSError("Cannot allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torchs_own_allocator_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_a_run_that_has_no_memory_says_so_in_four_lines(cli, folder: Path) -> None:
    # The fault is in an epoch's third batch, and the data have eight rows.
    arguments = ("--model", "faulty_recipe.Faulty", "--model.backbone", "memory-0", "--data.batch_size", "2")
    outcome = cli("fit", "--config", "my.yaml", *arguments, "--trainer.max_steps", "4")
    assert outcome.code == 1
    assert outcome.err.splitlines() == [
        "wegeft_pl: out of memory on cpu at step 2 (asked for 4096.0 TiB more)",
        "  plan: optimizer 32 B, weights 12 B, gradients 12 B",  # three numbers, two moments each, two step counts
        "  next: --data.batch_size 1 --trainer.accumulate_grad_batches 2",
        "  (WEGEFT_PL_TRACEBACK=1 shows the device's own message)",
    ]


def test_the_devices_own_message_on_request(cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEGEFT_PL_TRACEBACK", "1")
    arguments = ("--model", "faulty_recipe.Faulty", "--model.backbone", "memory-0", "--data.batch_size", "2")
    outcome = cli("fit", "--config", "my.yaml", *arguments, "--trainer.max_steps", "4")
    assert "DefaultCPUAllocator: can't allocate memory" in outcome.err


def test_the_plan_is_that_of_the_recipe() -> None:
    half = replace(PLAN, estimate=replace(PLAN.estimate, activations=None))
    text = explain(MemoryError(), recipe(data={"max_length": None}), "train", "cpu at step 0", lambda: half)
    assert text.splitlines()[1] == "plan: weights 15.0 GiB, optimizer 2.0 MiB, gradients 1.0 MiB"
