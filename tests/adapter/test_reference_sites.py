"""Checkpoints of the authors' language tuner against their formula, and who shares what in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter.reference_checkpoints import array, merged, save
from oracle import merged_input_side, merged_output_side
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from wegeft_pl.adapter import adapter_of, import_reference, merge
from wegeft_pl.adapter.reference_files import read_reference

ATTENTION = "model.layers.{}.self_attn.{}"


def language(
    folder: Path, owners: dict[str, int], rank: int = 4, config: dict[str, Any] | None = None, widths: int = 16
) -> dict[str, Tensor]:
    """Writes a folder of the language format; ``owners`` maps module names to ranks."""
    folder.mkdir(exist_ok=True)
    state = {}
    for name, rank in owners.items():
        width = 24 if "down" in name else widths
        for factor in ("phi", "psi"):
            state[f"base_model.model.{name}.wegeft_{factor}.weight"] = torch.randn(rank, width)
    save_file(state, folder / "adapter_model.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "WEGEFT", **config}))
    return state


def language_weight(W: Tensor, state: dict[str, Tensor], owner: str, s: float) -> np.ndarray:
    phi, psi = (array(state[f"base_model.model.{owner}.wegeft_{factor}.weight"]) for factor in ("phi", "psi"))
    return merged_input_side(array(W), phi.T, psi, s)


@pytest.mark.parametrize("headless", [False, True])
def test_language_format_shared_by_type(llama: LlamaForCausalLM, tmp_path: Path, headless: bool) -> None:
    owners = {ATTENTION.format(0, name): 4 for name in ("q_proj", "v_proj")}
    ties = [[r"model\.layers\.\d+\.self_attn\.q_proj"], [r"model\.layers\.\d+\.self_attn\.v_proj"]]
    config = {"r": 4, "wegeft_alpha": 8, "target_modules": ["q_proj", "v_proj"], "tied_modules": ties}
    state = language(tmp_path / "peft", owners, config=config)
    old = {
        name: llama.get_submodule(name).weight.detach().clone()
        for name in map(ATTENTION.format, (0, 1), ("q_proj",) * 2)
    }
    model = llama.model if headless else llama
    adapter, head = import_reference(tmp_path / "peft", model)
    assert head == {}
    assert (adapter.config.sharing, adapter.config.targets, adapter.config.alpha) == ("type", ("q_proj", "v_proj"), 8)
    assert adapter.config.zero == "phi"
    model.double()
    merge(model, adapter)
    for name, weight in old.items():
        expected = language_weight(weight, state, ATTENTION.format(0, "q_proj"), 2.0)
        np.testing.assert_allclose(array(llama.get_submodule(name).weight), expected, rtol=1e-11, atol=1e-13)


def test_language_format_without_ties_and_with_patterns(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    owners = {ATTENTION.format(i, name): 4 if name == "k_proj" else 2 for i in (0, 1) for name in ("k_proj", "o_proj")}
    config = {
        "r": 4,
        "wegeft_alpha": 8,
        "target_modules": ["k_proj", "o_proj"],
        "rank_pattern": {"o_proj": 2},
        "alpha_pattern": {"o_proj": 6},
        "transform_dim": {"k_proj": "input", "o_proj": "input"},
    }
    state = language(tmp_path / "peft", owners, config=config)
    names = list(owners)
    old = {name: llama.get_submodule(name).weight.detach().clone() for name in names}
    adapter, _ = import_reference(tmp_path / "peft", llama)
    assert adapter.config.sharing == "layer"
    after = merged(llama, adapter, names)
    for name in names:
        expected = language_weight(old[name], state, name, 2.0 if "k_proj" in name else 3.0)
        np.testing.assert_allclose(
            after[name], expected, rtol=1e-6, atol=1e-7
        )  # the folded scale is rounded to float32


def test_language_format_with_one_group_over_two_types(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    tie = [[r".*\.q_proj$", r".*\.k_proj$"], [r".*\.v_proj$"]]
    owners = {ATTENTION.format(0, "q_proj"): 3, ATTENTION.format(0, "v_proj"): 3}
    config = {"r": 3, "wegeft_alpha": 3, "target_modules": ["q_proj", "k_proj", "v_proj"], "tied_modules": tie}
    state = language(tmp_path / "peft", owners, config=config)
    old = llama.model.layers[1].self_attn.k_proj.weight.detach().clone()
    adapter, _ = import_reference(tmp_path / "peft", llama)
    assert sorted(len(group.sites) for group in adapter.groups) == [2, 4]
    after = merged(llama, adapter, [ATTENTION.format(1, "k_proj")])[ATTENTION.format(1, "k_proj")]
    expected = language_weight(old, state, ATTENTION.format(0, "q_proj"), 1.0)
    np.testing.assert_allclose(after, expected, rtol=1e-11, atol=1e-13)


def test_language_state_without_its_config(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    owner = ATTENTION.format(0, "q_proj")
    state = language(tmp_path / "peft", {owner: 4})
    wrapped = {name.replace(".weight", ".default.weight"): value for name, value in state.items()}
    path = save(wrapped | {"base_model.model.score.modules_to_save.default.weight": torch.ones(2)}, tmp_path / "a.bin")
    with pytest.raises(
        ValueError, match=r"does not say its targets .no adapter_config.json lies beside it.; give targets"
    ):
        import_reference(path, llama)
    with pytest.raises(ValueError, match="does not say its sharing"):
        import_reference(path, llama, targets=["q_proj"])
    with pytest.raises(ValueError, match="does not say its alpha"):
        import_reference(path, llama, targets=["q_proj"], sharing="type")
    with pytest.raises(ValueError, match=r"has no generator for the group of model.layers.1.self_attn.q_proj"):
        import_reference(path, llama, targets=["q_proj"], sharing="layer", alpha=8)
    old = llama.model.layers[1].self_attn.q_proj.weight.detach().clone()
    adapter, head = import_reference(path, llama, targets=["q_proj"], sharing="type", alpha=8)
    assert list(head) == ["score.weight"]
    after = merged(llama, adapter, [ATTENTION.format(1, "q_proj")])[ATTENTION.format(1, "q_proj")]
    np.testing.assert_allclose(after, language_weight(old, state, owner, 2.0), rtol=1e-11, atol=1e-13)


def test_language_output_side(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    """Their output side runs only where phi is (D, R): y + s Linear_phi(Linear_psi(y))."""
    owner = ATTENTION.format(0, "q_proj")
    config = {"r": 4, "wegeft_alpha": 4, "target_modules": [owner], "transform_dim": "output"}
    phi, psi = torch.randn(16, 4), torch.randn(4, 16)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    names = {f"{owner}.wegeft_phi.weight": phi, f"{owner}.wegeft_psi.weight": psi}
    old = llama.model.layers[0].self_attn.q_proj.weight.detach().clone()
    adapter, _ = import_reference(save(names, tmp_path / "adapter_model.bin"), llama)
    after = merged(llama, adapter, [owner])[owner]
    np.testing.assert_allclose(
        after, merged_output_side(array(old), array(phi), array(psi), 1.0), rtol=1e-11, atol=1e-13
    )
    model = LlamaForCausalLM(llama.config)
    broken = save({**names, f"{owner}.wegeft_phi.weight": phi.T.contiguous()}, tmp_path / "adapter_model.bin")
    with pytest.raises(
        ValueError, match="do not multiply on the output side; the authors' code could not run this either"
    ):
        import_reference(broken, model)
    assert adapter_of(model) is None


def test_language_files_that_do_not_fit(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    config: dict[str, Any] = {"r": 4, "wegeft_alpha": 8, "target_modules": ["q_proj"]}
    both = {ATTENTION.format(i, "q_proj"): 4 for i in (0, 1)}
    folder = tmp_path / "peft"

    def refused(match: str, owners: dict[str, int] = both, **changes: Any) -> None:
        language(folder, owners, config=config | changes)
        with pytest.raises(ValueError, match=match):
            import_reference(folder, llama)
        assert adapter_of(llama) is None

    refused("has 2 generators .* its tied_modules and target_modules ask for", tied_modules=[[".*q_proj"]])
    refused("has no generator for the group of model.layers.1.self_attn.q_proj", {ATTENTION.format(0, "q_proj"): 4})
    refused(
        "edits model.layers.0.self_attn.q_proj, which is no target of its adapter_config",
        target_modules=["k_proj"],
        owners={**both, **{ATTENTION.format(i, "k_proj"): 4 for i in (0, 1)}},
    )
    refused("edits model.decoder.q_proj; this model has self_attn.q_proj", {"model.decoder.q_proj": 4})
    refused("has rank 4, but its adapter_config.json says 8", r=8)
    refused(
        "edits the sides input, output; an adapter edits",
        target_modules=["q_proj", "k_proj"],
        transform_dim={"q_proj": "input", "k_proj": "output"},
        owners={**both, **{ATTENTION.format(i, "k_proj"): 4 for i in (0, 1)}},
    )
    with pytest.raises(ValueError, match="names its targets itself"):
        import_reference(folder, llama, targets=["q_proj"])
    language(folder, both, config=config)
    with pytest.raises(ValueError, match=r"says its sharing itself .tied_modules.; leave sharing out"):
        import_reference(folder, llama, sharing="type")
    with pytest.raises(ValueError, match=r"says its alpha itself .8.; leave alpha out"):
        import_reference(folder, llama, alpha=2)
    name = f"{ATTENTION.format(0, 'q_proj')}.wegeft_phi"
    for state, match in (
        ({f"{name}.weight": torch.ones(4, 16)}, "has no wegeft_psi; the file was cut"),
        ({f"{name}.bias": torch.ones(4)}, "is a bias, which this format never had"),
        (
            {f"{name}.a.weight": torch.ones(4, 16), f"{name}.b.weight": torch.ones(4, 16)},
            "holds several adapters .a, b.",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            read_reference(save(state, tmp_path / "x.bin"))
