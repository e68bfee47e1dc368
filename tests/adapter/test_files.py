from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import llama_config
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaForCausalLM

from wegeft_pl import Adapter, AdapterConfig, inject, load_adapter, merge
from wegeft_pl.adapter import files, storage

IDS = torch.arange(3, 23).reshape(2, 10)


@pytest.fixture
def adapter(llama: LlamaForCausalLM) -> Adapter:
    adapter = inject(llama, AdapterConfig("all-linear", rank=4, alpha=8, also_train=["norm"]))
    for _, parameter in adapter.named_parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return adapter


def fresh(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(llama_config()).eval()


def test_round_trip(adapter: Adapter, tmp_path: Path) -> None:
    adapter.save(tmp_path / "adapter", base_name="some/base")
    model = fresh()
    loaded = load_adapter(model, tmp_path / "adapter")
    assert torch.equal(model(IDS).logits, adapter.model(IDS).logits)
    assert loaded.config == adapter.config
    assert files.base_name_of(tmp_path / "adapter") == "some/base"


def test_files_hold_the_adapter_and_nothing_of_the_base(adapter: Adapter, tmp_path: Path) -> None:
    adapter.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["adapter.safetensors", "adapter_config.json"]
    tensors = load_file(tmp_path / "adapter.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == adapter.num_parameters()
    assert "model.norm.weight" in tensors
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    assert content["base"]["model"] == "LlamaForCausalLM"
    assert content["groups"]["q_proj"] == ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]


def test_equal_adapters_give_equal_files(adapter: Adapter, tmp_path: Path) -> None:
    contents = set()
    for number in range(8):
        adapter.save(tmp_path / str(number))
        contents.add((tmp_path / str(number) / "adapter.safetensors").read_bytes())
    assert len(contents) == 1


def test_a_bfloat16_copy_is_the_same_base_and_another_seed_is_not(adapter: Adapter, tmp_path: Path) -> None:
    adapter.save(tmp_path)
    load_adapter(fresh().bfloat16(), tmp_path)
    other = fresh(seed=1)
    mine, theirs = adapter.fingerprint.short(), inject(fresh(seed=1), adapter.config).fingerprint.short()
    assert mine != theirs
    with pytest.raises(ValueError, match=rf"trained on another base \(its weights differ\): expected {mine}.*{theirs}"):
        load_adapter(other, tmp_path)
    assert not any("wegeft" in name for name, _ in other.named_modules())  # left as it was


def test_one_changed_layer_is_another_base(adapter: Adapter, tmp_path: Path) -> None:
    adapter.save(tmp_path)
    model = fresh()
    model.model.layers[1].mlp.up_proj.weight.data *= 1.01
    with pytest.raises(ValueError, match="its weights differ"):
        load_adapter(model, tmp_path)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"])
def test_a_changed_layer_that_is_not_edited_is_another_base(adapter: Adapter, tmp_path: Path, name: str) -> None:
    adapter.save(tmp_path)
    model = fresh()
    model.get_parameter(name).data.normal_()
    with pytest.raises(ValueError, match="its weights differ"):
        load_adapter(model, tmp_path)


def test_every_column_of_a_large_weight_counts() -> None:
    from wegeft_pl.adapter.fingerprint import fingerprint_of

    model = nn.ModuleDict({"a": nn.Linear(1024, 1024, bias=False)})
    before = fingerprint_of(model, [])
    for column in (0, 1, 1023):
        weight = model["a"].weight.data
        kept = weight[:, column].clone()
        weight[:, :column].add_(1.0)  # all other columns
        weight[:, column + 1 :].add_(1.0)
        assert fingerprint_of(model, []) != before
        weight.sub_(1.0)
        weight[:, column] = kept
        model["a"].weight.data = weight


def test_other_shapes_are_another_base(tmp_path: Path) -> None:
    inject(fresh(), AdapterConfig(["up_proj"], rank=4)).save(tmp_path)
    wider = LlamaForCausalLM(llama_config(intermediate_size=32))
    with pytest.raises(ValueError, match="its layers differ"):
        load_adapter(wider, tmp_path)


def test_saving_after_a_merge_keeps_the_fingerprint(adapter: Adapter, tmp_path: Path) -> None:
    expected = adapter.fingerprint
    merge(adapter.model, adapter)
    adapter.save(tmp_path)
    assert files.read_description(tmp_path)[1] == expected


def test_an_existing_adapter_is_not_replaced_unasked(adapter: Adapter, tmp_path: Path) -> None:
    adapter.save(tmp_path)
    with pytest.raises(FileExistsError, match="choose another folder or pass overwrite=True"):
        adapter.save(tmp_path)
    adapter.save(tmp_path, overwrite=True)


def test_a_write_that_fails_leaves_the_old_file(adapter: Adapter, tmp_path: Path, monkeypatch) -> None:
    adapter.save(tmp_path)
    old = (tmp_path / files.TENSORS).read_bytes()

    def full_disk(*args: object, **kwargs: object) -> None:
        Path(args[1]).write_bytes(b"half")  # type: ignore[arg-type]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        adapter.save(tmp_path, overwrite=True)
    assert (tmp_path / files.TENSORS).read_bytes() == old
    assert sorted(os.listdir(tmp_path)) == ["adapter.safetensors", "adapter_config.json"]


def test_values_that_are_not_finite_are_never_written(adapter: Adapter, tmp_path: Path) -> None:
    adapter.groups[0].generator.phi.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"wegeft.q_proj.phi holds NaN or infinite values"):
        adapter.save(tmp_path)
    assert os.listdir(tmp_path) == []


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / files.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_broken_folders_are_refused_and_the_model_left_alone(adapter: Adapter, tmp_path: Path) -> None:
    model = fresh()
    with pytest.raises(FileNotFoundError, match=r"no file .*adapter_config.json"):
        load_adapter(model, tmp_path)
    adapter.save(tmp_path)
    path = tmp_path / files.TENSORS
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        load_adapter(model, tmp_path)
    path.write_bytes(whole)
    edit_config(tmp_path, format_version=99)
    with pytest.raises(ValueError, match="has format 99, this version reads 1; update wegeft_pl"):
        load_adapter(model, tmp_path)
    edit_config(tmp_path, format_version=1, adapter={"targets": ["q_proj"], "rnak": 2})
    with pytest.raises(ValueError, match="no field 'rnak'"):
        load_adapter(model, tmp_path)
    edit_config(tmp_path, adapter={"targets": ["q_proj"], "alpha": "x"})
    with pytest.raises(ValueError, match="a field of 'adapter' has a value of the wrong type"):
        load_adapter(model, tmp_path)
    edit_config(tmp_path, base={})
    with pytest.raises(ValueError, match="lacks 'model'; the file was cut or edited"):
        load_adapter(model, tmp_path)
    edit_config(tmp_path, format="other", peft_type="LORA")
    with pytest.raises(ValueError, match="it is a PEFT LORA adapter; load it with peft"):
        load_adapter(model, tmp_path)
    (tmp_path / files.CONFIG).write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_adapter(model, tmp_path)
    (tmp_path / files.CONFIG).write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object, got a list"):
        load_adapter(model, tmp_path)
    assert not any("wegeft" in name for name, _ in model.named_modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("wegeft.q_proj.phi"), r"lacks wegeft.q_proj.phi \(1 missing, 0 unknown tensors\)"),
        (lambda t: t.update(x=torch.zeros(1)), r"has x, which this adapter has not \(0 missing, 1 unknown"),
        (lambda t: t.update({"wegeft.q_proj.phi": torch.zeros(16, 5)}), r"has shape \(16, 5\), expected \(16, 4\)"),
        (lambda t: t["wegeft.q_proj.phi"].fill_(float("inf")), r"wegeft.q_proj.phi holds NaN or infinite"),
    ],
)
def test_wrong_tensors_are_refused_before_any_is_loaded(adapter: Adapter, change, message: str) -> None:
    tensors = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    change(tensors)
    with pytest.raises(ValueError, match=message):
        files.load_state(adapter, tensors, "file")
    assert all(torch.equal(before[name], tensor) for name, tensor in adapter.state_dict().items())


def test_an_edited_book_of_groups_is_refused(adapter: Adapter, tmp_path: Path) -> None:
    adapter.save(tmp_path)
    edit_config(tmp_path, groups={"q_proj": ["model.layers.9.self_attn.q_proj"]})
    with pytest.raises(ValueError, match="its groups are not those that its config gives"):
        load_adapter(fresh(), tmp_path)


def test_the_run_folder_in_place_of_its_adapter(adapter: Adapter, tmp_path: Path) -> None:
    adapter.save(tmp_path / "adapter")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*adapter\?"):
        load_adapter(fresh(), tmp_path)


def test_a_meta_base_has_no_fingerprint() -> None:
    with torch.device("meta"):
        model = nn.ModuleDict({"a": nn.Linear(4, 4)})
    with pytest.raises(ValueError, match=r"a.bias is on the meta device"):
        _ = inject(model, AdapterConfig(["a"], rank=2)).fingerprint
