"""Reference checkpoints by the command line."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM

from wegeft_pl import load_adapter
from wegeft_pl.adapter.storage import read_tensors
from wegeft_pl.cli.main import main

OWNER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def peft_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "peft"
    folder.mkdir()
    state = {f"{OWNER}.wegeft_{name}.weight": torch.randn(4, 16) for name in ("phi", "psi")}
    torch.save(state, folder / "adapter_model.bin")
    config = {"r": 4, "wegeft_alpha": 8, "target_modules": ["q_proj"], "tied_modules": [[r".*q_proj"]]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_language(peft_folder: Path, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["import-reference", "--checkpoint", str(peft_folder), "--backbone", str(llama_folder)]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "language checkpoint: rank 4, s = 2, 128 parameters\ngroups: q_proj (2 layers)\nadapter: " in out
    assert "head:" not in out
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    ids = torch.arange(4, 24).reshape(2, 10)
    before = model(ids).logits
    adapter = load_adapter(model, tmp_path / "out")
    state = torch.load(peft_folder / "adapter_model.bin", weights_only=True)
    assert torch.equal(adapter.groups[0].generator.phi, state[f"{OWNER}.wegeft_phi.weight"].T)
    assert not torch.allclose(model(ids).logits, before, atol=1e-3)
    # The folder is one that the other commands take.
    assert main(["merge", "--adapter", str(tmp_path / "out"), "--output", str(tmp_path / "merged")]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_headless_as_json(
    peft_folder: Path, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["import-reference", "--checkpoint", str(peft_folder), "--backbone", str(llama_folder), "--headless"]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["format"], facts["rank"], facts["scale"], facts["groups"]) == ("language", 4, 2.0, {"q_proj": 2})


def test_vision(
    shared: Path, timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def build(name: str) -> torch.nn.Module:
        asked.append(name)
        return timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0)

    monkeypatch.setattr("wegeft_pl.backbones.vision.load", build)
    checkpoint = shared / "weights/gift_fgvc/CUB.last.pth.tar"
    arguments = ["import-reference", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 0
    assert asked == ["vit_base_patch16_224.augreg_in21k"]  # the architecture that the file names
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == 24_576
    assert facts["head"] == {"head.weight": [200, 768], "head.bias": [200]}
    assert facts["checkpoint"] == {"arch": asked[0], "epoch": 99, "metric": pytest.approx(89.7135, abs=1e-4)}
    assert read_tensors(tmp_path / "out/head.safetensors")["head.weight"].shape == (200, 768)
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["history"][0]["imported"] == checkpoint.name


def test_a_folder_with_one_checkpoint_on_a_timm_folder(
    shared: Path, timm: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/CUB.last.pth.tar").symlink_to(shared / "weights/gift_fgvc/CUB.last.pth.tar")
    model = timm.create_model("vit_base_patch16_224", num_classes=0, depth=2)
    timm.models.save_for_hf(model, tmp_path / "vit", safe_serialization=True)
    arguments = ["import-reference", "--checkpoint", str(tmp_path / "checkpoints"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--backbone", str(tmp_path / "vit"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["base"] == str(tmp_path / "vit")
    assert facts["groups"] == {"proj": 2}
    load_adapter(model, tmp_path / "out")  # by its fingerprint: the very weights of the folder


def test_a_timm_name_without_a_network_fails_at_once(
    shared: Path, timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("wegeft_pl.backbones.hub._answers", lambda endpoint: False)
    checkpoint = shared / "weights/gift_fgvc/CUB.last.pth.tar"
    started = time.monotonic()
    assert main(["import-reference", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")]) == 1
    assert time.monotonic() - started < 15
    assert "backbone: cannot load the weights of 'vit_base_patch16_224.augreg_in21k': " in capsys.readouterr().err


def test_problems_in_one_line(tmp_path: Path, llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "last.pth.tar", tmp_path / "out"
    state = {"in_projections.q_proj.weight": torch.ones(2, 16), "out_projections.q_proj.weight": torch.ones(16, 2)}
    torch.save({"state_dict": state, "args": argparse.Namespace()}, path)
    base = ["import-reference", "--checkpoint", str(path), "--output", str(out)]
    for arguments, text in (
        (base, f"{path} does not name its backbone; give it with --backbone"),
        ([*base, "--backbone", str(llama_folder), "--ema"], f"{path} has no state_dict_ema; it holds state_dict, args"),
        (
            [*base, "--backbone", str(llama_folder), "--alpha", "2"],
            f"{path} is of the vision format, which fixes alpha; ",
        ),
        (["import-reference", "--checkpoint", str(out), "--output", str(out)], f"no file {out}"),
    ):
        assert main(arguments) == 1
        err = capsys.readouterr().err  # behind transformers' bar, where a model was loaded
        assert err.count("\n") <= 2
        assert err.splitlines()[-1].startswith(f"wegeft_pl: {text}")
        assert not out.exists()
    (out / "full").mkdir(parents=True)
    assert main(base) == 1
    assert "exists and is not empty; choose another --output" in capsys.readouterr().err
