"""Run by test_merge.py, one process per rank: models merged shard by shard, beside what merging in memory gives.

python merge_script.py CASES.json RENDEZVOUS_FILE  with RANK and WORLD_SIZE set, and a list of objects with the keys
of :class:`Case`.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from wegeft_pl import AdapterConfig, MergeReport, inject, merge
from wegeft_pl.adapter import model_folder
from wegeft_pl.adapter.match_weights import match_weights
from wegeft_pl.adapter.sharded import whole
from wegeft_pl.adapter.storage import write_json
from wegeft_pl.adapter.weight_files import WeightFiles
from wegeft_pl.distributed import merge_sharded, shard

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@dataclass
class Case:
    """One merge."""

    output: str
    model: str = "llama"
    config: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    base_dtype: str = "bfloat16"
    dtype: str | None = None
    mesh: list[int] = field(default_factory=list)
    file_bytes: int = 5 * 10**9
    base: bool = False
    fails_on: int | None = None
    times: int = 1
    measure: bool = False


IDS = {"bos_token_id": 1, "eos_token_id": 2}
LLAMA = IDS | {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 47,
}
GPT2 = IDS | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 47}
MIXTRAL = {"num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2}


def build(case: Case) -> PreTrainedModel:
    """The same model on every process."""
    torch.manual_seed(0)
    dtype = getattr(torch, case.base_dtype)
    if case.model == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**(GPT2 | case.config))).to(dtype)
    if case.model == "mixtral":
        return MixtralForCausalLM(MixtralConfig(**(LLAMA | MIXTRAL | case.config))).to(dtype)
    return LlamaForCausalLM(LlamaConfig(**(LLAMA | {"num_key_value_heads": 2} | case.config))).to(dtype)


def run(case: Case) -> None:
    """Merges, and on the first process writes what is expected beside it."""
    output, rank = Path(case.output), dist.get_rank()
    model_folder.FILE_BYTES = case.file_bytes
    fields: dict[str, Any] = {"targets": "all-linear", "rank": 3, "alpha": 6.0} | case.adapter
    if fields.pop("squared", False):
        from adapter.test_inject import Squared

        fields["generator"] = Squared
    model = build(case)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    if case.base and rank == 0:
        model.save_pretrained(output / "base")
    dist.barrier()
    if case.base:  # as if it had been built on the meta device and read from files
        model = model.to("meta")
    adapter = inject(model, AdapterConfig(**fields))
    if case.base:
        model = model.to_empty(device="cpu")
        model.load_state_dict(build(case).state_dict(), strict=False)
        for group in adapter.groups:
            group.generator.reset_parameters()
    for _, parameter in adapter.named_parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    twin = copy.deepcopy(model)
    shape = case.mesh or [dist.get_world_size()]
    shard(model, init_device_mesh("cpu", tuple(shape), mesh_dim_names=("replicate", "shard")[-len(shape) :]))
    before = {name: whole(tensor).clone() for name, tensor in model.state_dict().items()}

    entries = match_weights(model, WeightFiles(output / "base")) if case.base else None
    dtype = None if case.dtype is None else getattr(torch, case.dtype)

    def finish(folder: Path, report: MergeReport) -> None:
        write_json(folder / "report.json", report.to_dict())

    real = os.pwrite

    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    for _ in range(case.times):
        try:
            os.pwrite = full if case.fails_on == rank else real
            report = merge_sharded(adapter, output / "merged", finish, dtype=dtype, base=entries)
        except OSError as error:
            (output / f"error_{rank}.txt").write_text(str(error))
            continue
        finally:
            os.pwrite = real
        (output / f"report_{rank}.json").write_text(json.dumps(report.to_dict()))
    after = {name: whole(tensor) for name, tensor in model.state_dict().items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items()), "the model was changed"
    if rank == 0:
        expect(twin, before, case, output)


def expect(twin: nn.Module, values: dict[str, torch.Tensor], case: Case, output: Path) -> None:
    """Writes the merge of a copy in memory."""
    adapter = twin.__dict__["_wegeft_adapter"]
    if case.base:
        adapter.trained.originals = {
            name: build(case).get_parameter(name).detach() for name, _ in adapter.trained.named_parameters()
        }
    report = merge(twin, adapter, dtype=None if case.dtype is None else getattr(torch, case.dtype))
    named = {name: tensor.contiguous() for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]}
    save_file({name: named[name] for name in twin.state_dict() if name in named}, output / "expected.safetensors")
    (output / "expected.json").write_text(json.dumps(report.to_dict()))


def measure(case: Case) -> None:
    """Merges a model of some size and writes by how much the process grew."""
    output = Path(case.output)
    with torch.device("meta"):
        model = build(case)
    adapter = inject(model, AdapterConfig("all-linear", rank=64, **case.adapter))
    shard(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    adapter._fingerprint = adapter.fingerprint

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now
    loaded = status("VmRSS")
    merge_sharded(adapter, output / "merged", lambda folder, report: None)
    held = sum(tensor.to_local().nbytes for tensor in model.parameters())  # type: ignore[operator]
    numbers = {"loaded": loaded, "peak": status("VmHWM"), "held": held}
    (output / f"memory_{dist.get_rank()}.json").write_text(json.dumps(numbers))


if __name__ == "__main__":
    torch.set_num_threads(1)
    store = dist.FileStore(sys.argv[2], int(os.environ["WORLD_SIZE"]))
    dist.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
    for fields in json.loads(Path(sys.argv[1]).read_text()):
        one = Case(**fields)
        (measure if one.measure else run)(one)
        dist.barrier()
    dist.destroy_process_group()
