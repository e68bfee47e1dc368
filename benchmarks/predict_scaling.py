"""Predicts memory, step time and speed of large runs from shapes and stated assumptions. Nothing here was measured.

    python benchmarks/predict_scaling.py [--models llama3_8b ...] [--devices 8 16 64 256 1024] [--samples 8] [--json]
    python benchmarks/predict_scaling.py --global_samples 256   # the same batch whatever the number of devices

Bytes and collectives are those of wegeft_pl.accounting.communication, which benchmarks/scaling.py checks against real
fits; times follow from the assumptions in :class:`Machine`. docs/SCALING.md derives the formulae.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.accounting import activation_bytes, optimizer_bytes, weight_bytes
from wegeft_pl.accounting.communication import Unit, ddp_step, fsdp_step, gathered_bytes, units_of
from wegeft_pl.distributed import blocks_of
from wegeft_pl.tasks import CausalLMTask

MODELS = ("llama3_8b", "llama2_70b", "llama3_70b")
DEVICES = (8, 16, 64, 256, 1024)
RANK = 64
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
#: A GPU's memory that a plan may use: 80 GB less the CUDA context, NCCL's buffers and fragmentation.
USABLE = 72e9


@dataclass(frozen=True)
class Machine:
    """H100 SXM nodes; the efficiencies are assumptions.

    Args:
        flops: of one GPU, dense bfloat16, as specified.
        compute_efficiency: of it that the matrix products of a block reach.
        node: GPUs of a node.
        nvlink: bytes a second into one GPU from the others of its node, as specified for one direction.
        nvlink_efficiency: of it that a large all-gather reaches.
        network: bytes a second into one GPU's adapter (400 Gb/s).
        network_efficiency: of it that a large all-gather reaches.
        latency: seconds before a collective begins; this and the hops are the constants by which NCCL itself chooses
            among algorithms (ring, Simple).
        hop: seconds of each step of a ring inside a node.
        network_hop: seconds of each step between nodes.
    """

    flops: float = 989e12
    compute_efficiency: float = 0.45
    node: int = 8
    nvlink: float = 450e9
    nvlink_efficiency: float = 0.8
    network: float = 50e9
    network_efficiency: float = 0.85
    latency: float = 8.4e-6
    hop: float = 3.4e-6
    network_hop: float = 14e-6

    def gather(self, size: int, devices: int) -> float:
        """Seconds of an all-gather or reduce-scatter whose whole tensor has ``size`` bytes, by a ring over devices.

        Every byte enters a node once, over all of its adapters together, and every GPU once, over NVLink.
        """
        if devices == 1 or size == 0:
            return 0.0
        nodes = -(-devices // self.node)
        speed = self.nvlink * self.nvlink_efficiency
        if nodes > 1:
            speed = min(speed, self.node * self.network * self.network_efficiency)
        steps = (devices - nodes) * self.hop + (nodes - 1) * (self.network_hop if nodes > 1 else 0.0)
        return self.latency + steps + size * (devices - 1) / devices / speed

    def reduce(self, size: int, devices: int, *, one_per_node: bool = False) -> float:
        """Seconds of an all-reduce of ``size`` bytes, twice a gather; ``one_per_node``: each over its own adapter."""
        if devices == 1 or size == 0:
            return 0.0
        if not one_per_node:
            return 2 * self.gather(size, devices)
        speed = self.network * self.network_efficiency
        return 2 * (self.latency + (devices - 1) * self.network_hop + size * (devices - 1) / devices / speed)


@dataclass(frozen=True)
class Shapes:
    """What of a model decides, for micro-batches of one size.

    Args:
        units: the root first.
        weights: bytes of the whole model with its adapter.
        trained: bytes of what is trained.
        optimizer: bytes of AdamW's state.
        activations: bytes at the peak, with gradient checkpointing.
        block_forward: floating-point operations of a block's forward pass for a micro-batch.
        block_backward: of its backward pass, without recomputation.
        head: of the output head's forward pass; its backward pass takes as many.
        tokens: of a micro-batch.
    """

    units: list[Unit]
    weights: int
    trained: int
    optimizer: int
    activations: int
    block_forward: float
    block_backward: float
    head: float
    tokens: int


@dataclass(frozen=True)
class Prediction:
    """One row: bytes of one device, seconds of a step.

    Args:
        model: its short name.
        strategy: what is done.
        devices: GPUs.
        samples: of a micro-batch.
        memory: bytes of one GPU at the peak.
        compute: seconds of computing alone.
        communication: seconds of collectives alone.
        exposed: seconds of them that nothing hides.
        step: seconds of a step of one micro-batch.
        tokens_per_second: of all GPUs.
        latency_share: of the collectives' time that does not depend on bytes.
    """

    model: str
    strategy: str
    devices: int
    samples: int
    memory: float
    compute: float
    communication: float
    exposed: float
    step: float
    tokens_per_second: float
    latency_share: float


def shapes_of(model: str, samples: int, tokens: int) -> Shapes:
    """Counts a model on the meta device."""
    task = CausalLMTask(model, dtype="bfloat16", gradient_checkpointing=True)
    backbone = task.backbone = task.build_backbone(meta=True)
    adapter = inject(backbone, AdapterConfig(LINEARS, rank=RANK, alpha=128.0))
    blocks = blocks_of(backbone)
    batch = task.example_batch(samples, tokens)
    config = task.model.config
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    matrices = sum(p.numel() for p in next(iter(blocks.values())).parameters() if p.ndim == 2)
    widths = sum(group.generator.width for group in adapter.groups)
    count = samples * tokens
    linear, edit = 2.0 * matrices * count, 4.0 * RANK * widths * count
    attention = 2.0 * tokens * config.hidden_size * count  # causal: half of the 4 T d of full attention
    return Shapes(
        units_of(backbone, blocks),
        weight_bytes(backbone),
        sum(parameter.nbytes for parameter in trained),
        optimizer_bytes(task.optimizer, trained),
        activation_bytes(task, lambda: task.training_loss(batch)),
        linear + edit + attention,
        linear + 2 * edit + 2.5 * attention,  # frozen weights: the gradient of the input alone
        2.0 * config.hidden_size * config.vocab_size * count,
        count,
    )


def predict(model: str, shapes: Shapes, strategy: str, devices: int, samples: int, machine: Machine) -> Prediction:
    """One step of one micro-batch on each device.

    Args:
        model: for the row.
        shapes: of it.
        strategy: ``ddp``, ``full shard``, ``full shard, blocks stay whole`` or ``hybrid, a copy a node``.
        devices: GPUs.
        samples: for the row.
        machine: the assumptions.
    """
    speed = machine.flops * machine.compute_efficiency
    forward, backward = shapes.block_forward / speed, (shapes.block_forward + shapes.block_backward) / speed
    head, num_blocks = shapes.head / speed, len(shapes.units) - 1
    compute = num_blocks * (forward + backward) + 2 * head
    beside = shapes.trained + shapes.optimizer + shapes.weights
    if strategy == "ddp":
        reduced = machine.reduce(ddp_step(shapes.units, devices).all_reduce_bytes, devices)
        none = machine.reduce(1, devices)
        step, communication, latency = compute + reduced, reduced, none
        memory = float(beside + shapes.activations)
    else:
        shards = machine.node if strategy.startswith("hybrid") else devices
        replicas, again = devices // shards, not strategy.endswith("whole")
        sent = fsdp_step(shapes.units, shards, replicas=replicas, reshard_after_forward=again)
        root, block = (machine.gather(unit.gathered(shards), shards) for unit in shapes.units[:2])
        scattered = machine.gather(sent.reduce_scatter_bytes, shards)
        scattered += machine.reduce(sent.all_reduce_bytes, replicas, one_per_node=True)
        # Each block's gather runs under the block before it; the first one of each pass, and the root's, do not.
        passes = root + block + (num_blocks - 1) * max(forward, block) + forward + 2 * head
        passes += block + (num_blocks - 1) * max(backward, block) + backward if again else num_blocks * backward
        step, communication = passes + scattered, root + (1 + again) * num_blocks * block + scattered
        latency = sent.all_gathers * machine.gather(1, shards) + machine.gather(1, shards)
        latency += machine.reduce(1, replicas, one_per_node=True)
        gathered = gathered_bytes(shapes.units, shards, reshard_after_forward=again, activations=shapes.activations)
        memory = beside / shards + shapes.activations + gathered
    return Prediction(
        model, strategy, devices, samples, memory, compute, communication, step - compute, step,
        shapes.tokens * devices / step, latency / communication if communication else 0.0,
    )  # fmt: skip


def strategies_for(shapes: Shapes, devices: int, machine: Machine) -> list[str]:
    """Those whose weights fit at all."""
    chosen = ["full shard"] + ([] if devices <= machine.node else ["hybrid, a copy a node"])
    if shapes.weights + shapes.activations < USABLE:
        chosen.insert(0, "ddp")
    return chosen


def table(options: argparse.Namespace, machine: Machine) -> list[Prediction]:
    """All rows asked for; a fixed global batch leaves out what does not divide."""
    rows = []
    known: dict[tuple[str, int], Shapes] = {}
    for model in options.models:
        for devices in options.devices:
            samples = options.samples
            if options.global_samples:
                if options.global_samples % devices:
                    continue
                samples = options.global_samples // devices
            key = (model, samples)
            if key not in known:
                known[key] = shapes_of(model, samples, options.tokens)
            shapes = known[key]
            rows += [
                predict(model, shapes, strategy, devices, samples, machine)
                for strategy in strategies_for(shapes, devices, machine)
            ]
    return rows


def show(rows: Sequence[Prediction]) -> None:
    """Prints a Markdown table."""
    heads = ["model", "strategy", "GPUs", "samples a GPU", "GB a GPU", "compute ms", "collectives ms", "of it latency"]
    heads += ["exposed ms", "step ms", "tokens/s", "per GPU, against the fewest"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    fewest = min(row.devices for row in rows)
    best: dict[str, float] = {}
    for row in rows:
        each = row.tokens_per_second / row.devices
        if row.devices == fewest:
            best[row.model] = max(best.get(row.model, 0.0), each)
        against = f"{each / best[row.model]:.0%}" if row.model in best else "-"
        print(
            f"| {row.model} | {row.strategy} | {row.devices:,} | {row.samples} | {row.memory / 1e9:.1f} | "
            f"{row.compute * 1e3:,.0f} | {row.communication * 1e3:,.0f} | {row.latency_share:.0%} | "
            f"{row.exposed * 1e3:,.0f} | {row.step * 1e3:,.0f} | {row.tokens_per_second:,.0f} | {against} |"
        )


def main() -> None:
    """Parses the arguments and predicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--devices", type=int, nargs="+", default=list(DEVICES))
    parser.add_argument("--samples", type=int, default=8, help="of each GPU's micro-batch")
    parser.add_argument("--tokens", type=int, default=512, help="of each sample")
    parser.add_argument("--global_samples", type=int, help="of all GPUs together, instead of --samples")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    options = parser.parse_args()
    rows = table(options, Machine())
    if options.json:
        json.dump([asdict(row) for row in rows], sys.stdout, indent=2)
    else:
        show(rows)


if __name__ == "__main__":
    main()
