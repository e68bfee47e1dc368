"""The strategy on CUDA: what one GPU can show of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from small_run import SmallData, injector, make_task

from wegeft_pl.adapter.sharded import local
from wegeft_pl.distributed import WeGeFTFSDPStrategy

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
