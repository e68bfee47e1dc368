"""Saved adapters on their way to other libraries, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.cli.main import main

IDS = torch.arange(4, 24).reshape(2, 10)


@pytest.fixture
def trained(llama_folder: Path, folder: Path) -> torch.Tensor:
    """An adapter folder ./adapter on the tiny Llama; its logits on IDS."""
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    adapter = inject(model, AdapterConfig("all-linear", rank=4, alpha=8, also_train=["norm"]))
    for _, parameter in adapter.named_parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    adapter.save("adapter", base_name=str(llama_folder))
    return model(IDS).logits.detach()


def test_merge(trained: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "--adapter", "adapter", "--output", "merged"]) == 0
    assert "14 layers merged" in capsys.readouterr().out
    torch.testing.assert_close(
        AutoModelForCausalLM.from_pretrained("merged")(IDS).logits, trained, rtol=1e-5, atol=1e-5
    )
    assert AutoTokenizer.from_pretrained("merged")("abc")["input_ids"]
    assert len(json.loads(Path("merged/merge_report.json").read_text())["layers"]) == 14


def test_merge_of_a_bfloat16_base_keeps_its_dtype_or_widens_it(
    trained: torch.Tensor, llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.bfloat16).save_pretrained("half")
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained("half")
    for dtype, expected in (("base", torch.bfloat16), ("float32", torch.float32)):
        capsys.readouterr()
        arguments = ["--adapter", "adapter", "--base", "half", "--output", dtype, "--dtype", dtype, "--json"]
        assert main(["merge", *arguments]) == 0
        assert json.loads(capsys.readouterr().out)["path"] == dtype
        loaded = AutoModelForCausalLM.from_pretrained(dtype)
        assert {parameter.dtype for parameter in loaded.parameters()} == {expected}


def test_export_equals_the_adapter_in_peft(
    trained: torch.Tensor, llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--adapter", "adapter", "--output", "lora", "--format", "lora"]) == 0
    assert "exact LoRA of 14 layers" in capsys.readouterr().out
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_folder), "lora")
    torch.testing.assert_close(loaded(IDS).logits, trained, rtol=1e-5, atol=1e-5)
    config = json.loads(Path("lora/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["task_type"]) == (str(llama_folder), "CAUSAL_LM")


@pytest.mark.parametrize("command", ["merge", "export"])
def test_mistakes_are_one_line_and_write_nothing(
    trained: torch.Tensor, llama_folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    def error(*arguments: str) -> str:
        assert main([command, *arguments]) == 1
        return capsys.readouterr().err

    assert "no adapter folder nowhere" in error("--adapter", "nowhere", "--output", "out")
    Path("taken").mkdir()
    Path("taken/file").touch()
    assert "taken exists and is not empty; choose another --output" in error(
        "--adapter", "adapter", "--output", "taken"
    )
    other = AutoModelForCausalLM.from_pretrained(llama_folder)
    other.model.layers[0].mlp.up_proj.weight.data *= 2
    other.save_pretrained("other")
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained("other")
    assert "was trained on another base" in error("--adapter", "adapter", "--base", "other", "--output", "out")
    config = json.loads(Path("adapter/adapter_config.json").read_text())
    config["base"]["name"] = None
    Path("adapter/adapter_config.json").write_text(json.dumps(config))
    assert "does not name its base; give it with --base" in error("--adapter", "adapter", "--output", "out")
    assert not Path("out").exists()
