from __future__ import annotations
import json, pytest
from distributed.conftest import Fits, worst

ALSO = {"adapter": {"also_train": ["input_layernorm", "norm", "lm_head"], "targets": ["q_proj", "down_proj"]}}
CL = {"trainer": {"gradient_clip_val": 0.05, "accumulate_grad_batches": 2}, "task": {"gradient_checkpointing": True}}

@pytest.mark.parametrize("n", [3, 4])
def test_many(fits: Fits, n: int) -> None:
    cases = {"also": ALSO | CL, "layer": {"adapter": {"sharing": "layer"}} | CL}
    bs = 12 // n
    one = fits(1, {f"one_{k}": c | {"batch_size": 12} for k, c in cases.items()})
    fields = {"replicas": 2} if n == 4 else {"reshard_after_forward": False}
    many = fits(n, {f"m{n}_{k}": c | {"batch_size": bs, "strategy": "wegeft_fsdp", "strategy_fields": fields} for k, c in cases.items()})
    for k in cases:
        a, b = one[f"one_{k}"], many[f"m{n}_{k}"]
        print(n, k, worst(a["gradients"], b["gradients"]), worst(a["parameters"], b["parameters"]), a["fingerprint"]==b["fingerprint"], a["test"], b["test"], a["validate"], b["validate"])

def test_offload(fits: Fits) -> None:
    r = fits(2, {"off": {"strategy": "wegeft_fsdp", "batch_size": 2, "strategy_fields": {"cpu_offload": True}}})
    print(r["off"]["test"])
