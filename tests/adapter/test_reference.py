"""Vision checkpoints of the authors' code against their formula, written out in NumPy float64 from the raw tensors."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from adapter.reference_checkpoints import Vit, array, bad, merged, projections, save, vision_weight
from torch import nn

from wegeft_pl.adapter import import_reference, load_adapter, merge


def test_the_authors_own_checkpoint(shared: Path, timm: ModuleType) -> None:
    path = shared / "weights/gift_fgvc/CUB.last.pth.tar"
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", pretrained=False).eval()
    weights = {f"blocks.{i}.attn.proj": model.blocks[i].attn.proj.weight.detach().clone() for i in range(12)}
    adapter, head = import_reference(path, model)
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert adapter.num_parameters() == 24_576
    assert [(group.name, len(group.sites)) for group in adapter.groups] == [("proj", 12)]
    assert {name: tuple(value.shape) for name, value in head.items()} == {
        "head.weight": (200, 768),
        "head.bias": (200,),
    }
    # The edited forward of a layer against the formula applied by hand.
    x = torch.randn(5, 768, dtype=torch.float64)
    model.double()
    for index in (0, 7, 11):
        layer, name = model.blocks[index].attn.proj, f"blocks.{index}.attn.proj"
        expected = array(x) @ vision_weight(weights[name], state).T + array(layer.bias)
        np.testing.assert_allclose(array(layer(x)), expected, rtol=1e-12, atol=1e-13)
        assert np.abs(array(layer(x)) - array(x) @ array(weights[name]).T - array(layer.bias)).max() > 0.1
    image = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    edited = model(image)
    merge(model, adapter)
    for name, weight in weights.items():
        np.testing.assert_allclose(
            array(model.get_submodule(name).weight), vision_weight(weight, state), rtol=1e-12, atol=1e-14
        )
    torch.testing.assert_close(model(image), edited, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_prefixes_and_dtypes(tmp_path: Path, prefix: str, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in projections().items()}
    state["backbone.head.weight"] = torch.randn(5, 12).to(dtype)
    path = save({"state_dict": {prefix + name: value for name, value in state.items()}}, tmp_path / "last.pth.tar")
    model = Vit()
    before = {i: model.blocks[i].attn.proj.weight.detach().clone() for i in range(3)}
    adapter, head = import_reference(path, model)
    assert torch.equal(head["head.weight"], state["backbone.head.weight"])
    after = merged(model, adapter, [f"blocks.{i}.attn.proj" for i in range(3)])
    for i in range(3):
        np.testing.assert_allclose(
            after[f"blocks.{i}.attn.proj"], vision_weight(before[i], state), rtol=1e-12, atol=1e-14
        )


def test_several_targets_of_unequal_width_and_rank(tmp_path: Path) -> None:
    state = projections("attn:qkv", rank=3) | projections("mlp:fc2", width=24, rank=5) | projections("fc1", rank=2)
    model = Vit()
    old = {
        name: module.weight.detach().clone() for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    adapter, head = import_reference(save(state, tmp_path / "checkpoint.pth"), model)
    assert head == {}
    assert adapter.config.rank == 5
    after = merged(model, adapter, list(old))
    for name, weight in old.items():
        key = next((key for key in ("attn:qkv", "mlp:fc2", "fc1") if name.endswith(key.replace(":", "."))), None)
        expected = array(weight) if key is None else vision_weight(weight, state, key)
        np.testing.assert_allclose(after[name], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("args", ["namespace", "dict", "argument", "older"])
def test_one_generator_for_all_targets(tmp_path: Path, args: str) -> None:
    state = projections("shared_projection")
    content: dict[str, Any] = {"state_dict": state, "arch": "vit", "epoch": 3}
    targets = ["attn:proj", "attn:qkv"]
    given = {"gift_target_modules": targets, "lr": 0.1}
    if args == "namespace":
        content["args"] = argparse.Namespace(**given)
    elif args == "older":
        content["args"] = argparse.Namespace(hypernet_target_modules=targets, hypernet_block_block_type="simple_block")
    elif args == "dict":
        content["args"] = given
    model = Vit()
    old = model.blocks[1].attn.qkv.weight.detach().clone()
    path = save(content, tmp_path / "last.pth.tar")
    adapter, _ = import_reference(path, model, targets=targets if args == "argument" else None)
    assert [len(group.sites) for group in adapter.groups] == [6]
    assert adapter.history == [
        {"imported": "last.pth.tar", "format": "vision", "state": "state_dict", "arch": "vit", "epoch": 3}
    ]
    after = merged(model, adapter, ["blocks.1.attn.qkv"])["blocks.1.attn.qkv"]
    np.testing.assert_allclose(after, vision_weight(old, state, "shared_projection"), rtol=1e-12, atol=1e-14)


def test_saved_and_loaded_again(tmp_path: Path) -> None:
    model = Vit()
    adapter, _ = import_reference(save(projections(), tmp_path / "checkpoint.pth"), model)
    adapter.save(tmp_path / "adapter")
    edited, x = model, torch.randn(2, 12)
    y = edited(x)
    adapter.remove()
    again = load_adapter(model, tmp_path / "adapter")
    assert torch.equal(model(x), y)
    assert again.history == [{"imported": "checkpoint.pth", "format": "vision", "state": ""}]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    state = projections()
    down, up = state
    bad(tmp_path, [1], "holds a list, not a checkpoint")
    bad(tmp_path, {"weights": 1}, "has no state_dict; it holds weights")
    bad(
        tmp_path,
        {"a": torch.ones(1)},
        "has neither in_projections/out_projections nor wegeft_phi/wegeft_psi tensors; it holds a",
    )
    bad(tmp_path, {down: state[down]}, "attn:proj has no out_projections.attn:proj.weight; it was cut")
    bad(tmp_path, {**state, down: state[down] * torch.nan}, "holds NaN or infinite values")
    bad(tmp_path, state | projections("attn:prj"), "edits attn.prj; this model has .*attn.qkv, attn.proj")
    bad(tmp_path, projections("q"), "edits q, a part of a fused projection, which the authors' code could not run")
    bad(tmp_path, state | projections("proj"), "attn:proj and proj both edit blocks.0.attn.proj|width")
    bad(tmp_path, projections(width=8), "attn:proj is for layers of width 8, and blocks.0.attn.proj has 12; load the")
    bad(
        tmp_path,
        {**state, up: torch.randn(12, 3)},
        "phi .12, 4. and psi .3, 12. of attn:proj do not multiply on the input",
    )
    bad(tmp_path, {**state, "module." + down: state[down]}, "holds generators under several names: , module.; keep one")
    bad(tmp_path, {**state, "hypernets.x.blocks.0.norm1.weight": torch.ones(4)}, "has hypernets.x but no projections")
    bad(tmp_path, {"state_dict": projections("shared_projection")}, "does not say its targets; give targets=")
    bad(tmp_path, state, "names its targets .attn:proj.; leave targets out", targets=["attn.proj"])
    bad(tmp_path, state, "targets must be a list of names, got the string 'proj'", targets="proj")
    bad(tmp_path, state, "is of the vision format, which fixes alpha; leave alpha out", alpha=2.0)
    bad(tmp_path, state, "is of the vision format, which fixes sharing; leave sharing out", sharing="type")
    bad(tmp_path, {"state_dict": state, "args": 3}, "args is a int, expected an argparse.Namespace or a dict")
