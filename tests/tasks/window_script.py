"""One of two processes of test_window.py: ``python window_script.py RANK RENDEZVOUS OUTPUT.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from wegeft_pl.tasks.window import WeightWindow


class Strategy:
    """What the window asks of a strategy."""

    root_device = torch.device("cpu")

    def reduce(self, tensor: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "sum"
        torch.distributed.all_reduce(tensor)
        return tensor


def main(rank: int, rendezvous: str, output: Path) -> None:
    """Reads and normalises steps of plain, sharded and replicated gradients."""
    torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=2)
    trainer: Any = SimpleNamespace(strategy=Strategy(), accumulate_grad_batches=2, world_size=2, global_rank=rank)
    mesh = init_device_mesh("cpu", (2,))
    results = []
    for losses in ([[1.0, 2.0], [4.0, 8.0]], [[1.0, 2.0], [float("nan"), 8.0]]):
        generator = torch.Generator().manual_seed(0)
        whole = [torch.randn(shape, generator=generator) for shape in ((3, 2), (4,), (5, 2))]
        gradients = [
            distribute_tensor(whole[0], mesh, [Shard(0)]),  # two rows here, one there
            distribute_tensor(whole[1], mesh, [Replicate()]),
            whole[2].clone(),
        ]
        # Now: a DTensor may share the memory of what it was made of.
        before = [tensor.flatten().tolist() for tensor in whole]
        window = WeightWindow()
        for loss, weight in zip(losses[rank], (3, 4), strict=True):
            window.add(torch.tensor(loss), torch.tensor(weight + rank))
        facts = window.read(gradients, trainer)
        broken = window.ranks_with_broken_loss(trainer)
        window.normalise(gradients, facts)
        after = [gradients[0].full_tensor(), gradients[1].full_tensor(), gradients[2]]
        results.append(
            {
                "loss": facts.loss,
                "norm": facts.norm,
                "broken": broken,
                "before": before,
                "after": [tensor.flatten().tolist() for tensor in after],
            }
        )
    output.write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
