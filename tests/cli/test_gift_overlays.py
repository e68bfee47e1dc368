"""The overlays of GIFT's first version on a recipe, and a generator's options on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from wegeft_pl.cli.main import main


@pytest.fixture
def plan(folder: Path, llama: LlamaForCausalLM, capsys: pytest.CaptureFixture[str]):
    llama.config.save_pretrained(folder / "shapes")

    def run(*options: str) -> dict:
        common = ["--json", "--model.backbone", "shapes", "--data.max_length", "16"]
        assert main(["plan", "--config", "llama_gsm8k", *options, *common]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)["parameters"]

    return run


def gift(width: int, clusters: int | None, rows: int = 16) -> int:
    """The docstring's count for the tiny Llama's o_proj (16, 16)."""
    paca = 0 if clusters is None else (width + 1) * clusters
    return 2 * width * 16 + rows * width + 8 * width**2 + 7 * width + paca


@pytest.mark.parametrize(
    ("overlays", "expected"),
    [
        (["gift_v1"], gift(96, 96)),
        (["gift_d48"], gift(48, 96)),
        (["gift_d192"], gift(192, 96)),
        (["gift_no_paca"], gift(96, None)),
        (["gift_softmax"], gift(96, 96) - 96),
        (["gift_softmax", "gift_v1"], gift(96, 96)),
    ],
)
def test_overlays(plan, overlays: list[str], expected: int) -> None:
    options = [part for name in overlays for part in ("--config", name)]
    assert plan(*options, "--adapter.targets", "[o_proj]")["groups"] == {"o_proj": expected}


def test_an_overlay_serves_every_target_of_a_recipe(plan) -> None:
    groups = plan("--config", "gift_d48")["groups"]
    assert groups["q_proj"] == gift(48, 96)
    assert groups["k_proj"] == gift(48, 96, rows=8)
    assert len(groups) == 7


def test_options_on_the_command_line(plan, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--adapter.generator",
        "wegeft_pl.generators.PaCaGenerator",
        "--adapter.rank",
        "4",
        "--adapter.zero",
        "psi",
    ]
    options += ["--adapter.targets", "[q_proj]"]
    plain = 2 * 4 * 16 + 8 * 16 + 7 * 4
    assert plan(*options)["trainable"] == plain + 5 * 64
    assert plan(*options, "--adapter.generator_options.clusters", "3")["trainable"] == plain + 5 * 3
    both = ["--adapter.generator_options", "{clusters: 3, norm: layer}"]
    assert plan(*options, *both)["trainable"] == plain + 5 * 3 + 4 * 4
    one_more = ["--config", "gift_d48", "--adapter.generator_options.clusters", "3", "--adapter.targets", "[o_proj]"]
    assert plan(*one_more)["trainable"] == gift(48, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--adapter.generator_options.clutsers", "3"],
            "PaCaGenerator has no option 'clutsers'; did you mean 'clusters'?",
        ),
        (["--adapter.generator_options.clusters", "many"], "clusters must be an integer of at least 1, got 'many'"),
        (["--adapter.zero", "phi"], "PaCaGenerator can start at zero by psi only, got zero: phi; set zero: psi"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, llama: LlamaForCausalLM, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    llama.config.save_pretrained(folder / "shapes")
    paca = ["--adapter.generator", "wegeft_pl.generators.PaCaGenerator", "--adapter.zero", "psi"]
    assert main(["plan", "--config", "llama_gsm8k", "--model.backbone", "shapes", *paca, *options]) != 0
    err = capsys.readouterr().err.strip()
    assert message in err
    assert len(err.splitlines()) == 1
