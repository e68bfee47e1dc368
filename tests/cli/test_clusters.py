"""What an adapter's clusters look at, by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from explain.small_vision import write_pictures
from PIL import Image
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore:Number of distinct clusters")


@pytest.fixture
def vision(tmp_path: Path, timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RUN/adapter of timm's test ViT with a head of three classes, its weights in weights.safetensors, and pictures."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    adapter = inject(model, AdapterConfig(["attn.proj"], rank=4, zero="psi", also_train=["head"]))
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter.normal_(std=0.2)
    adapter.about = {"task": "image_classification", "num_classes": 3}
    adapter.save(tmp_path / "run/adapter", base_name="test_vit")
    write_pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ARGUMENTS = ["clusters", "--adapter", "run", "--images", "images", "--weights", "weights.safetensors"]


def test_the_weights_are_those_that_the_adapter_names(vision: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path("run/adapter/adapter_config.json")
    content = json.loads(config.read_text())
    content["about"]["weights"] = str(vision / "weights.safetensors")
    config.write_text(json.dumps(content))
    arguments = ["clusters", "--adapter", "run", "--images", "images", "--layers", "blocks.1", "--limit", "1"]
    assert main([*arguments, "--num_images", "1"]) == 0, capsys.readouterr().err
    assert Path("run/clusters/blocks.1.attn.proj.png").is_file()


def test_pictures(vision: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*ARGUMENTS, "--layers", "blocks.1", "--num_images", "3", "--num_maps", "2", "--limit", "4"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "written: run/clusters"
    with Image.open("run/clusters/blocks.1.attn.proj.png") as picture:
        assert picture.size == (4 * 72, 3 * 72 + 34)
    facts = json.loads(Path("run/clusters/clusters.json").read_text())
    assert (facts["images"], facts["image_size"], facts["pictures"]) == (4, 160, ["blocks.1.attn.proj.png"])
    events = EventAccumulator("run/clusters/tensorboard", size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["clusters/blocks.1.attn.proj"]
    # Nothing is written over.
    assert main(arguments) == 1
    assert "clusters exists and is not empty; choose another --output" in capsys.readouterr().err


def test_scores(vision: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (20, 24), 2).save("masks/a/5.png")  # an image without its object
    arguments = ["--masks", "masks", "--ignored_value", "3", "--layers", "0", "1", "--draws", "1", "--tolerance", "0"]
    assert main([*ARGUMENTS, *arguments, "--normalization", "half", "--output", "out", "--json"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert "warning: images/a/5.png is left out: its mask has no pixel of the object" in captured.err
    assert facts["left_out"] == ["images/a/5.png"]
    assert (facts["path"], facts["base"], facts["images"]) == ("out", "test_vit", 5)
    assert set(facts["scores"]) == {"none", "blocks.0.attn.proj", "blocks.1.attn.proj"}
    layer = facts["scores"]["blocks.0.attn.proj"]
    assert list(layer) == ["learned", "random phi", "k-means, K maps", "2-means"]
    for score in layer.values():
        assert 0 <= score["miou"]["low"] <= score["miou"]["mean"] <= score["miou"]["high"] <= 1
    # The square is 90 of the 480 pixels of a trimap whose 10 border pixels do not count.
    assert facts["scores"]["none"]["whole image"]["miou"]["mean"] == pytest.approx(90 / 470, abs=2e-3)
    assert json.loads(Path("out/clusters.json").read_text())["scores"] == facts["scores"]
    assert Path("out/scores.md").read_text().count("\n") == 2 + 2 + 2 * 4


def test_text(llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = tmp_path / "run/adapter"
    config = AdapterConfig(["o_proj"], rank=4, zero="psi")
    inject(AutoModelForCausalLM.from_pretrained(llama_folder), config).save(adapter, base_name=str(llama_folder))
    (tmp_path / "text.txt").write_text("the cat sat on the mat and 3 dogs ran. " * 20)
    arguments = ["clusters", "--adapter", str(adapter), "--text", str(tmp_path / "text.txt"), "--max_length", "64"]
    assert main([*arguments, "--layers", "layers.1", "--num_tokens", "2"]) == 0
    assert "ends of the cluster maps over" in capsys.readouterr().out
    output = tmp_path / "run/clusters"
    clusters = json.loads((output / "clusters.json").read_text())["clusters"]
    assert [(each["layer"], each["cluster"]) for each in clusters] == [
        ("model.layers.1.self_attn.o_proj", index) for index in range(4)
    ]
    assert all(len(each["highest"]) == len(each["lowest"]) == 2 for each in clusters)
    assert (output / "clusters.md").read_text().count("\n") == 2 + 4
    assert main([*arguments, "--json", "--output", str(tmp_path / "other")]) == 0
    assert len(json.loads(capsys.readouterr().out)["clusters"]) == 8


def test_mistakes_in_one_line(vision: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, text in (
        (ARGUMENTS[:3], 2, "give either --images DIR or --text FILE"),
        ([*ARGUMENTS, "--text", "t"], 2, "give either --images DIR or --text FILE"),
        (["clusters", "--adapter", "run", "--text", "t", "--masks", "m"], 2, "--masks belongs to --images"),
        (["clusters", "--adapter", "no", "--images", "images"], 1, "no adapter folder no"),
        (["clusters", "--adapter", "images", "--images", "images"], 1, "no file images/adapter_config.json"),
        (["clusters", "--adapter", "run", "--images", "nowhere"], 1, "images: nowhere is no folder"),
        ([*ARGUMENTS, "--layers", "qkv"], 1, "layers: 'qkv' names no edited layer"),
        (
            [*ARGUMENTS, "--masks", "masks", "--object_value", "7"],
            1,
            "masks: no mask in masks has a pixel of the value",
        ),
    ):
        assert main(arguments) == code
        err = capsys.readouterr().err
        assert err.startswith(f"wegeft_pl: {text}")
        assert err.count("\n") <= 2
        assert not Path("run/clusters").exists()
    config = Path("run/adapter/adapter_config.json")
    content = json.loads(config.read_text())
    del content["about"]
    config.write_text(json.dumps(content))
    assert main(ARGUMENTS) == 1
    assert "does not say how many classes its base has" in capsys.readouterr().err
    assert main([*ARGUMENTS, "--num_classes", "3", "--limit", "1", "--layers", "0"]) == 0
    content["base"]["name"] = None
    config.write_text(json.dumps(content))
    assert main([*ARGUMENTS, "--output", "other"]) == 1
    assert "does not name its base; give it with --base" in capsys.readouterr().err
