"""A run that goes on under another strategy, and with another number of processes, ends where it would have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.conftest import Fits, worst
from safetensors.torch import load_file

ALONE: dict[str, Any] = {"batch_size": 4}
DDP: dict[str, Any] = {"batch_size": 2, "strategy": "ddp"}
SHARDED: dict[str, Any] = {"batch_size": 2, "strategy": "wegeft_fsdp"}
#: One process, two, one again, sharded, two: each goes one step further. 24 rows are 6 steps of 4.
CHAIN = [("alone", 1, ALONE), ("ddp", 2, DDP), ("again", 1, ALONE), ("sharded", 2, SHARDED), ("last", 2, DDP)]


def last_checkpoint(output: Path) -> Path:
    return output.parent / output.stem / "checkpoints" / "last.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["type", "layer"])
def test_every_strategy_goes_on_from_every_other(fits: Fits, tmp_path: Path, sharing: str) -> None:
    common = {"adapter": {"sharing": sharing}, "save": True, "test": False}
    whole = fits(1, {"whole": ALONE | common | {"trainer": {"max_steps": len(CHAIN)}}})["whole"]
    resume = None
    for steps, (name, devices, settings) in enumerate(CHAIN, 1):
        result = fits(devices, {name: settings | common | {"trainer": {"max_steps": steps}, "resume": resume}})[name]
        resume = str(last_checkpoint(tmp_path / f"{name}.json"))
    assert worst(whole["parameters"], result["parameters"]) < 1e-6
    assert result["sharded"] == []


@pytest.mark.slow
def test_files_are_the_same_whatever_the_strategy(fits: Fits, tmp_path: Path) -> None:
    common = {"adapter": {"also_train": ["norm"]}, "save": True, "test": False, "trainer": {"max_steps": 2}}
    fits(1, {"alone": ALONE | common})
    fits(2, {"ddp": DDP | common})
    fits(2, {"sharded": SHARDED | common})
    folders = {name: tmp_path / name for name in ("alone", "ddp", "sharded")}
    files = {name: load_file(folder / "adapter" / "adapter.safetensors") for name, folder in folders.items()}
    sizes = {(folder / "adapter" / "adapter.safetensors").stat().st_size for folder in folders.values()}
    assert len(sizes) == 1
    configs = {(folder / "adapter" / "adapter_config.json").read_text() for folder in folders.values()}
    assert len(configs) == 1
    saved = {
        name: torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for name, folder in folders.items()
    }
    for name in ("ddp", "sharded"):
        assert files[name].keys() == files["alone"].keys()
        for key, tensor in files["alone"].items():
            assert torch.allclose(files[name][key], tensor, rtol=1e-6, atol=1e-7), key
        assert saved[name]["state_dict"].keys() == saved["alone"]["state_dict"].keys()
        states, wanted = (saved[which]["optimizer_states"][0]["state"] for which in (name, "alone"))
        assert states.keys() == wanted.keys()
        for index, state in wanted.items():
            for key, tensor in state.items():
                assert torch.allclose(states[index][key], tensor, rtol=1e-5, atol=1e-9), (index, key)
