"""Run by test_ddp.py under two gloo ranks: rank 1 sees no labelled token and no prompt, and must not hang.

python evaluation_script.py RANK INIT_FILE
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from wegeft_pl.metrics import gsm8k_strict
from wegeft_pl.tasks import TextEvaluation


def main(rank: int, file: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=30)
    )

    def loss(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return batch["sum"], batch["count"]

    evaluation = TextEvaluation(loss, lambda batch: ["#### 4"], {"exact_match": gsm8k_strict})
    if rank == 0:
        batch = {"sum": torch.tensor(6.0), "count": torch.tensor(3), "prompt_ids": 0}
        evaluation.update(batch | {"id": [0], "prompt": ["a"], "reference": ["4"]})
    else:
        evaluation.update({"sum": torch.tensor(0.0), "count": torch.tensor(0)})
    scores = evaluation.compute()
    assert (scores["loss"], scores["exact_match"]) == (2.0, 1.0), scores


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
