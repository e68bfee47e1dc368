"""Merging and exporting adapters of quantised bases: which weights are used is a choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import llama_config
from peft import PeftModel
from safetensors.torch import load_file
from small_run import save_llama
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject, load_adapter
from wegeft_pl.backbones import huggingface
from wegeft_pl.backbones.quantized import PACKAGES
from wegeft_pl.cli.main import main

IDS = torch.arange(4, 24).reshape(2, 10)
QUANTISED = ("bnb-nf4", "bnb-int8", "torchao-int8")


@pytest.fixture(params=QUANTISED)
def quantised(request: pytest.FixtureRequest, folder: Path) -> tuple[str, Path, torch.Tensor]:
    """An adapter folder ./adapter that was trained on a quantised Llama: the scheme, the base, its logits on IDS."""
    package = PACKAGES[request.param.partition("-")[0]][0]
    pytest.importorskip(package, reason=f"needs {package}", exc_type=ImportError)
    torch.manual_seed(0)
    base = save_llama(LlamaForCausalLM(llama_config(hidden_size=64, intermediate_size=128)), folder / "base")
    model = huggingface.load(str(base), causal_lm=True, quantize=request.param)
    adapter = inject(model, AdapterConfig("all-linear", rank=4, alpha=8, also_train=["norm"]))
    for _, parameter in adapter.named_parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    adapter.save("adapter", base_name=str(base))
    return request.param, base, model.train()(IDS).logits.detach()


def logits_of(path: str) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(IDS).logits.detach()


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())


def test_merging_into_dequantised_weights_gives_what_was_trained(
    quantised: tuple[str, Path, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    scheme, _, trained_logits = quantised
    arguments = ["merge", "--adapter", "adapter", "--base", "dequantized", "--dtype", "float32", "--probe_text", "abc"]
    assert main([*arguments, "--output", "merged"]) == 0
    out = capsys.readouterr().out
    assert "merged into the dequantized weights of a base that was quantised in training; quantising had changed" in out
    # Four-bit layers of this base compute in bfloat16 (dtype: auto).
    assert difference(logits_of("merged"), trained_logits) < (0.02 if scheme == "bnb-nf4" else 1e-4)
    report = json.loads(Path("merged/merge_report.json").read_text())
    assert report["weights"] == "dequantized"
    errors = report["quantization_error"]
    assert len(errors) == 14
    low, high = (0.05, 0.15) if scheme == "bnb-nf4" else (0.002, 0.02)
    assert all(low < error < high for error in errors.values())
    assert report["max_output_difference"] < 1e-4
    assert len(report["layers"]) == 15
    assert "quantization_config" not in json.loads(Path("merged/config.json").read_text())


def test_merging_into_original_weights_differs_by_the_quantisation_error(
    quantised: tuple[str, Path, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    scheme, base, trained_logits = quantised
    assert main(["merge", "--adapter", "adapter", "--base", "original", "--output", "merged"]) == 0
    assert "merged into the original weights of a base that was quantised" in capsys.readouterr().out
    report = json.loads(Path("merged/merge_report.json").read_text())
    assert (report["weights"], report["quantization_error"]) == ("original", None)
    found = difference(logits_of("merged"), trained_logits)
    assert (0.01 if scheme == "bnb-nf4" else 1e-4) < found < 0.3
    model = AutoModelForCausalLM.from_pretrained(base)
    load_adapter(model, "adapter")
    assert difference(logits_of("merged"), model(IDS).logits) < 1e-5


def test_exporting_from_either_weights(
    quantised: tuple[str, Path, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    _, base, _ = quantised
    found = {}
    for weights in ("original", "dequantized"):
        capsys.readouterr()
        assert main(["export", "--adapter", "adapter", "--base", weights, "--output", weights, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["weights"], facts["base"]) == (weights, str(base))
        found[weights] = load_file(f"{weights}/adapter_model.safetensors")
    assert found["original"].keys() == found["dequantized"].keys()
    name = next(name for name in found["original"] if name.endswith("q_proj.lora_B.weight"))
    assert 0.001 < difference(found["original"][name], found["dequantized"][name]) < 0.3
    model = AutoModelForCausalLM.from_pretrained(base)
    load_adapter(model, "adapter")
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "original")
    assert difference(peft(IDS).logits, model(IDS).logits) < 1e-5


@pytest.mark.parametrize("command", ["merge", "export"])
def test_the_choice_is_asked_for(
    quantised: tuple[str, Path, torch.Tensor], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    scheme, base, _ = quantised

    def error(*arguments: str) -> str:
        assert main([command, "--adapter", "adapter", "--output", "out", *arguments]) == 1
        assert not Path("out").exists()
        return capsys.readouterr().err

    asked = error()
    assert (
        f"adapter was trained on weights quantised by {scheme}; choose which ones to use: --base original (full"
        in asked
    )
    assert "--base dequantized (what was trained, rounded to the output's dtype)" in asked
    assert "\n" not in asked.strip()
    assert "--base original --base_name base (full" in error("--base", "base")
    assert "the base is given twice, --base base and --base_name base; keep one" in error(
        "--base", "base", "--base_name", "base"
    )
    huggingface.load(str(base), causal_lm=True, quantize=scheme).save_pretrained("small")
    AutoTokenizer.from_pretrained(base).save_pretrained("small")
    assert "small holds only quantised weights; give the full-precision model with --base_name, or use" in error(
        "--base", "original", "--base_name", "small"
    )
    content = json.loads(Path("adapter/adapter_config.json").read_text())
    content["base"]["name"] = None
    Path("adapter/adapter_config.json").write_text(json.dumps(content))
    assert "does not name its base; give it with --base_name" in error("--base", "original")


def test_a_base_that_moved_and_one_that_has_only_quantised_weights(
    quantised: tuple[str, Path, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    scheme, base, _ = quantised
    huggingface.load(str(base), causal_lm=True, quantize=scheme).save_pretrained("small")
    AutoTokenizer.from_pretrained(base).save_pretrained("small")
    base.rename("moved")
    for place in ("moved", "small"):
        arguments = ["--adapter", "adapter", "--base", "dequantized", "--base_name", place, "--output", f"{place}_out"]
        assert main(["merge", *arguments]) == 0, capsys.readouterr().err
    assert difference(logits_of("small_out"), logits_of("moved_out")) < 1e-5
    assert json.loads(Path("small_out/merge_report.json").read_text())["quantization_error"] is None


def test_dequantized_is_refused_where_nothing_was_quantised(
    llama_folder: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = inject(AutoModelForCausalLM.from_pretrained(llama_folder), AdapterConfig("all-linear", rank=4))
    adapter.save("adapter", base_name=str(llama_folder))
    assert main(["merge", "--adapter", "adapter", "--base", "dequantized", "--output", "out"]) == 1
    assert (
        "adapter was trained on weights that are not quantised; leave --base dequantized out" in capsys.readouterr().err
    )
    assert main(["merge", "--adapter", "adapter", "--base", "original", "--output", "out"]) == 0
    assert json.loads(Path("out/merge_report.json").read_text())["weights"] is None
