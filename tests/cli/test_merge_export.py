"""Saved adapters on their way to other libraries, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.cli import base_model
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
    assert "15 layers merged" in capsys.readouterr().out
    torch.testing.assert_close(
        AutoModelForCausalLM.from_pretrained("merged")(IDS).logits, trained, rtol=1e-5, atol=1e-5
    )
    assert AutoTokenizer.from_pretrained("merged")("abc")["input_ids"]
    assert len(json.loads(Path("merged/merge_report.json").read_text())["layers"]) == 15  # the 14 sites and the norm


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


@pytest.mark.parametrize("command", ["merge", "export"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adpter", "a", "--output", "b"], "no option '--adpter'; did you mean '--adapter'?"),
        (["--zzz=1"], "no option '--zzz'; `wegeft_pl COMMAND --help` lists the options"),
        (["--adap", "a"], "no option '--adap'; did you mean '--adapter'?"),
        ([], "the following arguments are required: --adapter, --output; see `wegeft_pl COMMAND --help`"),
        (["--adapter"], "option --adapter needs a value"),
        (
            ["--adapter", "a", "--output", "b", "run"],
            "unexpected argument 'run'; see `wegeft_pl COMMAND --help`",
        ),
    ],
)
def test_usage_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], command: str, arguments: list[str], message: str
) -> None:
    assert main([command, *arguments]) == 2
    assert capsys.readouterr().err == f"wegeft_pl: {message.replace('COMMAND', command)}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["merge", "--dtype", "flaot32"], "--dtype: 'flaot32' is not one of base, float32; did you mean 'float32'?"),
        (["export", "--format", "lroa"], "--format: 'lroa' is not one of lora; did you mean 'lora'?"),
    ],
)
def test_wrong_choices(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main([*arguments, "--adapter", "a", "--output", "b"]) == 2
    assert capsys.readouterr().err == f"wegeft_pl: {message}\n"


@pytest.mark.parametrize(
    ("command", "broken"),
    [("merge", "wegeft_pl.cli.merge.write_json"), ("export", "wegeft_pl.adapter.lora.write_json")],
)
def test_a_failed_attempt_leaves_nothing_and_blocks_no_other(
    trained: torch.Tensor, capsys: pytest.CaptureFixture[str], command: str, broken: str
) -> None:
    def fail(path: Path, content: object) -> None:
        assert (path.parent / ("model.safetensors" if command == "merge" else "adapter_model.safetensors")).exists()
        raise OSError("No space left on device")

    before = sorted(path.name for path in Path.cwd().iterdir())
    arguments = [command, "--adapter", "adapter", "--output", "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broken, fail)
        assert main(arguments) == 1
    assert capsys.readouterr().err.endswith("wegeft_pl: No space left on device\n")
    assert sorted(path.name for path in Path.cwd().iterdir()) == before
    assert main(arguments) == 0
    assert sorted(path.name for path in Path.cwd().iterdir()) == sorted([*before, "out"])


def test_warnings_of_a_merge_are_printed(
    trained: torch.Tensor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wegeft_pl.adapter.report.MAX_ROUNDING_LOSS", -1.0)
    assert main(["merge", "--adapter", "adapter", "--output", "out"]) == 0
    assert "warning: rounding took 0% of the change of " in capsys.readouterr().err


def test_export_as_json(trained: torch.Tensor, llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["export", "--adapter", "adapter", "--output", "out", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"path": "out", "format": "lora", "base": str(llama_folder), "layers": 14}


def test_a_mount_point_is_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda self: True)
    with pytest.raises(ValueError, match="is a mount point; choose a folder inside it as --output"):
        base_model.claim_output(tmp_path / "out")


def test_the_probe_is_asked_for(trained: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    def report(*arguments: str) -> dict[str, object]:
        capsys.readouterr()
        assert main(["merge", "--adapter", "adapter", "--json", *arguments]) == 0
        found = json.loads(capsys.readouterr().out)
        assert json.loads(Path(found["path"], "merge_report.json").read_text()).items() <= found.items()
        return found

    assert report("--output", "plain")["max_output_difference"] is None
    probed = report("--output", "probed", "--probe_text", "12 + 30 = 42")
    assert isinstance(probed["max_output_difference"], float)
    assert 0 < probed["max_output_difference"] < 1e-5
    assert probed["max_output"] > 0.01
    assert main(["merge", "--adapter", "adapter", "--output", "out", "--probe_text", ""]) == 1
    assert "probe_text: '' has no tokens; give some words" in capsys.readouterr().err


def test_a_base_without_safetensors_is_loaded_as_a_whole(
    trained: torch.Tensor, llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(AutoModelForCausalLM.from_pretrained(llama_folder).state_dict(), llama_folder / "pytorch_model.bin")
    (llama_folder / "model.safetensors").unlink()
    assert main(["merge", "--adapter", "adapter", "--output", "merged"]) == 0
    message = "has no safetensors files, or other names in them than its model; it is loaded as a whole"
    assert capsys.readouterr().err.count(message) == 1
    logits = AutoModelForCausalLM.from_pretrained("merged")(IDS).logits
    torch.testing.assert_close(logits, trained, rtol=1e-5, atol=1e-5)


def test_progress_is_told_to_a_terminal_alone(
    trained: torch.Tensor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["merge", "--adapter", "adapter", "--output", "quiet"]) == 0
    assert "merged model.safetensors" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["merge", "--adapter", "adapter", "--output", "told"]) == 0
    assert "merged model.safetensors (1 of 1 files)\n" in capsys.readouterr().err
