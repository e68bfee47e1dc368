"""The strategy on CUDA: what one GPU can show of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from small_run import SmallData, injector, make_task
from torch.distributed.device_mesh import init_device_mesh

from wegeft_pl.adapter.sharded import local
from wegeft_pl.adapter.weight_files import WeightFiles
from wegeft_pl.backbones import huggingface
from wegeft_pl.distributed import WeGeFTFSDPStrategy, load_own_rows, match_weights, shard

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("ignore:It is recommended to use .*sync_dist=True"),
]


def fit(llama_folder: Path, folder: Path, strategy: Any, **fields: Any) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The adapter after three steps, and the kinds of device that its parts lay on."""
    seed_everything(0, verbose=False)
    task = make_task(llama_folder)
    trainer = Trainer(
        accelerator="cuda",
        devices=1,
        strategy=strategy,
        max_steps=3,
        gradient_clip_val=1.0,
        logger=False,
        callbacks=[injector()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **fields,
    )
    trainer.validate(task, datamodule=SmallData(), verbose=False)
    trainer.fit(task, datamodule=SmallData())
    assert task.adapter is not None
    kinds = {local(parameter).device.type for _, parameter in task.adapter.named_parameters()}
    return task.adapter.whole_state_dict(), kinds


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_one_gpu_equals_the_plain_device(llama_folder: Path, tmp_path: Path, precision: Any) -> None:
    wanted, _ = fit(llama_folder, tmp_path, "auto", precision=precision)
    try:
        found, _ = fit(llama_folder, tmp_path, "wegeft_fsdp", precision=precision)
    finally:
        torch.distributed.destroy_process_group()
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=1e-5), name


def test_offloaded_shards_stay_in_host_memory(llama_folder: Path, tmp_path: Path) -> None:
    wanted, _ = fit(llama_folder, tmp_path, "auto")
    try:
        found, kinds = fit(llama_folder, tmp_path, WeGeFTFSDPStrategy(cpu_offload=True))
    finally:
        torch.distributed.destroy_process_group()
    assert kinds == {"cpu"}
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=1e-5), name


def test_offloaded_shards_pass_the_gpu_one_by_one(llama: torch.nn.Module, llama_folder: Path, tmp_path: Path) -> None:
    """A base that does not fit the device must not lie there whole while it is read."""
    model = huggingface.load(str(llama_folder), causal_lm=True, meta=True)
    entries = match_weights(model, WeightFiles(llama_folder))
    assert entries is not None
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        shard(model, init_device_mesh("cuda", (1,)), cpu_offload=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        load_own_rows(model, entries, torch.device("cuda", torch.cuda.current_device()), offloaded=True)
        peak = torch.cuda.max_memory_allocated() - before
    finally:
        torch.distributed.destroy_process_group()
    assert {local(parameter).device.type for parameter in model.parameters()} == {"cpu"}
    assert peak < sum(parameter.nbytes for parameter in llama.parameters()) / 2
