"""The strategy's own refusals, and what single processes can see of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    StrategyRegistry,
)
from small_run import SmallData, injector, make_task
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from wegeft_pl import AdapterConfig, inject, merge
from wegeft_pl.adapter.files import load_state
from wegeft_pl.adapter.weight_files import WeightFiles
from wegeft_pl.callbacks import WeGeFTInjector
from wegeft_pl.distributed import WeGeFTFSDPStrategy, check_strategy, gathered, match_weights, merge_sharded, shard
from wegeft_pl.tasks import CausalLMTask, FineTuneTask


@pytest.fixture
def one_process(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def make_trainer(tmp_path: Path, strategy: Any = "wegeft_fsdp", **fields: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_steps": 1,
        "num_sanity_val_steps": 0,
    }
    return Trainer(strategy=strategy, default_root_dir=tmp_path, callbacks=[injector()], **(settings | fields))


def test_scaled_losses_are_refused(llama_folder: Path) -> None:
    task = make_task(llama_folder)
    task._trainer = SimpleNamespace(strategy=WeGeFTFSDPStrategy(), precision="16-mixed")  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"precision 16-mixed scales losses, which sharded gradients .* use bf16-mixed"
    ):
        task.setup("fit")


def test_it_has_a_name() -> None:
    assert "wegeft_fsdp" in StrategyRegistry
    assert isinstance(StrategyRegistry.get("wegeft_fsdp"), WeGeFTFSDPStrategy)


def test_replicas_must_make_sense(tmp_path: Path, llama_folder: Path) -> None:
    with pytest.raises(ValueError, match="replicas must be at least 1, got 0"):
        WeGeFTFSDPStrategy(replicas=0)
    with pytest.raises(ValueError, match="replicas 2 and cpu_offload do not go together"):
        WeGeFTFSDPStrategy(replicas=2, cpu_offload=True)
    trainer = make_trainer(tmp_path, WeGeFTFSDPStrategy(replicas=2))
    with pytest.raises(ValueError, match="replicas 2 does not divide 1 processes"):
        trainer.fit(make_task(llama_folder), datamodule=SmallData())


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (FSDPStrategy.__new__(FSDPStrategy), "FSDPStrategy cannot clip by norm"),
        (ModelParallelStrategy(), "ModelParallelStrategy is tensor parallel inside a node"),
    ],
)
def test_other_ways_to_shard_are_refused(strategy: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"{reason}.*use --trainer\.strategy wegeft_fsdp, or ddp"):
        check_strategy(strategy)
    check_strategy(WeGeFTFSDPStrategy())
    check_strategy(DDPStrategy())
    check_strategy(SingleDeviceStrategy())


@pytest.mark.filterwarnings("ignore:It is recommended to use .*sync_dist=True")  # the metrics are reduced already
def test_one_process_is_enough(tmp_path: Path, llama_folder: Path) -> None:
    try:
        task = make_task(llama_folder)
        trainer = make_trainer(tmp_path)
        trainer.validate(task, datamodule=SmallData(), verbose=False)
        assert not any(
            loop.inference_mode
            for loop in (trainer.validate_loop, trainer.test_loop, trainer.fit_loop.epoch_loop.val_loop)
        )
        trainer.fit(task, datamodule=SmallData())  # after an evaluation in the same process
        assert trainer.global_step == 1
        assert all(isinstance(p, torch.distributed.tensor.DTensor) for p in task.parameters())
    finally:
        torch.distributed.destroy_process_group()


class OwnBackbone(FineTuneTask):
    """A research module that builds its backbone itself."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)) for _ in range(2)]
        self.backbone = nn.Sequential(*blocks)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        assert self.backbone is not None
        return self.backbone(batch).square().mean()


def test_a_backbone_that_a_module_built_itself_is_sharded(tmp_path: Path) -> None:
    task = OwnBackbone()
    trainer = make_trainer(tmp_path)
    trainer.callbacks = [WeGeFTInjector(targets=["0.0", "0.2", "1.0", "1.2"], rank=2)]  # type: ignore[attr-defined]
    try:
        trainer.fit(task, DataLoader(torch.randn(8, 4), batch_size=4))
        assert all(isinstance(p, torch.distributed.tensor.DTensor) for p in task.parameters())
        assert task.adapter is not None
        assert any(bool(t.any()) for name, t in task.adapter.whole_state_dict().items() if name.endswith("phi"))
    finally:
        torch.distributed.destroy_process_group()


class WithHead(CausalLMTask):
    """A research module with a trained part beside the backbone."""

    def configure_model(self) -> None:
        super().configure_model()
        self.head = nn.Linear(2, 2)


def test_what_is_trained_outside_the_backbone_is_refused(tmp_path: Path, llama_folder: Path) -> None:
    try:
        with pytest.raises(ValueError, match=r"head\.weight is trained but lies outside the sharded backbone"):
            make_trainer(tmp_path).fit(WithHead(str(llama_folder), max_new_tokens=3), datamodule=SmallData())
    finally:
        torch.distributed.destroy_process_group()


def test_a_backbone_without_blocks_is_refused(one_process: Any) -> None:
    with pytest.raises(ValueError, match=r"Linear has no repeated blocks to shard.*ddp"):
        shard(nn.Linear(2, 2), one_process)


def test_shards_on_the_host_need_no_gpu(llama: nn.Module, one_process: Any) -> None:
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        wanted = llama(input_ids=ids).logits
        shard(llama, one_process, cpu_offload=True)
        assert torch.equal(llama(input_ids=ids).logits, wanted)


def test_with_offloaded_shards_the_module_is_still_on_its_device(
    tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches, metrics and random states go where ``task.device`` says."""
    strategy = WeGeFTFSDPStrategy(cpu_offload=True)
    task = make_task(llama_folder)
    strategy.connect(task)
    monkeypatch.setattr(WeGeFTFSDPStrategy, "root_device", torch.device("meta"))
    strategy.model_to_device()
    assert task.device == torch.device("meta")


def test_saved_values_go_into_an_adapter_whose_model_has_just_computed(llama: nn.Module, one_process: Any) -> None:
    """The root's weights are whole then, in memory that is given back: written to, it ended the process."""
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=2, also_train=["norm"]))
    shard(llama, one_process)
    values = {name: torch.randn_like(tensor) for name, tensor in adapter.whole_state_dict().items()}
    with torch.no_grad():
        llama(input_ids=torch.arange(5, 15)[None])
    named = adapter.state_dict()
    assert not any(isinstance(named[name], torch.distributed.tensor.DTensor) for name in values)
    load_state(adapter, values, "values")
    found = adapter.whole_state_dict()
    assert all(torch.equal(found[name], value) for name, value in values.items())


def test_what_needs_whole_weights_is_refused(llama: nn.Module, one_process: Any, tmp_path: Path) -> None:
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=2, also_train=["norm"]))
    shard(llama, one_process)
    with pytest.raises(ValueError, match=r"this model is sharded; use wegeft_pl\.distributed\.merge_sharded"):
        merge(llama, adapter)
    with pytest.raises(ValueError, match="is sharded; save the adapter, then run python -m wegeft_pl export"):
        adapter.export_lora(tmp_path / "lora")
    adapter.trained.originals.clear()  # as if it had been injected on the meta device
    with pytest.raises(ValueError, match=r"base's model\.norm\.weight was read after .*load the base anew"):
        adapter.remove()
    assert adapter.state == "attached"


def test_a_base_that_can_no_longer_be_read_is_said_on_all_processes(
    llama: nn.Module, llama_folder: Path, one_process: Any, tmp_path: Path
) -> None:
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=2, also_train=["norm"]))
    shard(llama, one_process)
    entries = match_weights(llama, WeightFiles(llama_folder))
    assert entries is not None
    with open(entries["model.norm.weight"].file, "r+b") as file:
        file.truncate(entries["model.norm.weight"].start)
    with pytest.raises(OSError, match=r"process 0 of 1: ValueError: .* became shorter while model\.norm\.weight was"):
        merge_sharded(adapter, tmp_path / "merged", lambda folder, report: None, base=entries)
    assert not (tmp_path / "merged").exists()


def test_a_quantised_parameter_is_refused(llama: nn.Module, one_process: Any) -> None:
    layer = llama.get_submodule("model.layers.0.mlp.up_proj")
    layer.weight = nn.Parameter(torch.zeros(24, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"cannot shard the quantised model\.layers\.0\.mlp\.up_proj\.weight"):
        shard(llama, one_process)


def test_an_adapter_comes_before_the_shards(llama: nn.Module, one_process: Any) -> None:
    fully_shard(llama, mesh=one_process)
    with pytest.raises(ValueError, match="sharded already; inject the adapter first, then shard"):
        inject(llama, AdapterConfig(["q_proj"], rank=2))


def test_gathered_computes_the_same_and_leaves_it_sharded(llama: nn.Module, one_process: Any) -> None:
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        wanted = llama(input_ids=ids).logits
        shard(llama, one_process)
        names = {name: type(p) for name, p in llama.named_parameters()}
        with gathered(llama):
            assert not any(isinstance(p, torch.distributed.tensor.DTensor) for p in llama.parameters())
            for _ in range(2):
                assert torch.equal(llama(input_ids=ids).logits, wanted)
        assert {name: type(p) for name, p in llama.named_parameters()} == names
        assert torch.equal(llama(input_ids=ids).logits, wanted)
