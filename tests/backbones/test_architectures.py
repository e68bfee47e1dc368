"""METHOD.md section 2's table, row by row, from the shipped shapes alone."""

from __future__ import annotations

import pytest

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.accounting import count_parameters
from wegeft_pl.backbones import architectures, build, huggingface

QV = ["q_proj", "v_proj"]
QKVUD = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
ALL = [*QKVUD, "o_proj", "gate_proj"]

TABLE = [
    ("llama_7b", QV, 64, 1_048_576, 0.0156),
    ("llama2_7b", QV, 64, 1_048_576, 0.0156),
    ("llama_7b", ["o_proj"], 128, 1_048_576, 0.0156),
    ("llama_7b", QKVUD, 64, 3_506_176, 0.0520),
    ("llama2_7b", QKVUD, 64, 3_506_176, 0.0520),
    ("llama2_7b", ALL, 64, 4_554_752, 0.0676),
    ("llama2_7b", QV, 16, 262_144, 0.0039),
    ("llama2_7b", QV, 128, 2_097_152, 0.0311),
    ("llama3_8b", QV, 64, 1_048_576, 0.0131),
    ("llama3_8b", QKVUD, 64, 3_932_160, 0.0490),
    ("vit_base_patch16_224", ["attn.proj"], 16, 24_576, 0.0286),
    ("roberta_base", ["query", "value"], 32, 98_304, 0.0789),
    ("roberta_large", ["query", "value"], 32, 131_072, 0.0369),
]


@pytest.mark.parametrize(("name", "targets", "rank", "trainable", "percent"), TABLE)
def test_published_counts(
    request: pytest.FixtureRequest, name: str, targets: list[str], rank: int, trainable: int, percent: float
) -> None:
    if "llama" in name:
        model = huggingface.load(name, causal_lm=True, meta=True)
    else:
        if name.startswith("vit"):
            request.getfixturevalue("timm")
        model = build(name, meta=True)
    adapter = inject(model, AdapterConfig(targets, rank=rank, sharing="type"))
    count = count_parameters(model, adapter)
    assert count.trainable == count.adapter == trainable
    assert round(count.percent_of_frozen, 4) == percent
    assert len(count.groups) == len(targets)


def test_ids_find_their_shapes_whatever_the_case() -> None:
    assert architectures.find("meta-llama/llama-2-7B-HF") == architectures.find("llama2_7b")
    assert architectures.find("nobody/nothing") is None
