from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject, load_adapter
from wegeft_pl.generators import Generator, LinearGenerator, MixerGenerator, PaCaGenerator, SigmoidGenerator

PATH = "wegeft_pl.generators.PaCaGenerator"


def narrow_paca(width: int, rank: int, zero: str = "psi", side: str = "input", *, clusters: int = 2) -> Generator:
    """A factory: a function at the top level of a module."""
    return PaCaGenerator(width, rank, zero, side, clusters=clusters, mlp_ratio=1)


def anything(width: int, rank: int, zero: str, side: str, **options: Any) -> Generator:
    return PaCaGenerator(width, rank, "psi", side, **options)


class Holder:
    def factory(self) -> None:
        """No generator's name: inside a class."""


def written(**fields: Any) -> dict[str, Any]:
    """The config as an adapter's file holds it."""
    return json.loads(json.dumps(AdapterConfig(["q_proj"], **fields).to_dict()))


@pytest.mark.parametrize(
    "fields",
    [
        {"generator": PATH, "generator_options": {"clusters": 3, "norm": "layer"}},
        {"generator": PaCaGenerator, "generator_options": {"clusters": 3, "norm": "layer"}},
        {"generator": functools.partial(PaCaGenerator, clusters=3, norm="layer")},
        {"generator": functools.partial(PaCaGenerator, norm="layer"), "generator_options": {"clusters": 3}},
        {"generator": functools.partial(functools.partial(PaCaGenerator, norm="layer"), clusters=3)},
    ],
)
def test_every_way_to_name_a_generator_is_saved_alike(fields: dict, llama: LlamaForCausalLM) -> None:
    config = AdapterConfig.from_dict(written(**fields))
    # A class is saved by the module that defines it.
    assert config.generator in {PATH, "wegeft_pl.generators.paca.PaCaGenerator"}
    assert (config.generator_options, config.zero) == ({"clusters": 3, "norm": "layer"}, "psi")
    generator = inject(llama, config).groups[0].generator
    assert generator.blocks[0].tokens.branch.cluster.out_features == 3
    assert isinstance(generator.blocks[0].tokens.norm, torch.nn.LayerNorm)


def test_a_function_is_a_generator_too(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=4, generator=narrow_paca, generator_options={"clusters": 5}))
    assert adapter.config.to_dict()["generator"] == f"{__name__}.narrow_paca"
    adapter.save(tmp_path)
    adapter.remove()
    loaded = load_adapter(llama, tmp_path).groups[0].generator
    assert loaded.blocks[0].tokens.branch.cluster.out_features == 5


def test_zero_left_open_is_the_generators_own() -> None:
    assert AdapterConfig(["q_proj"]).zero == "phi"
    assert AdapterConfig(["q_proj"], generator=SigmoidGenerator).zero == "psi"
    assert AdapterConfig(["q_proj"], generator=narrow_paca).zero == "psi"
    assert AdapterConfig(["q_proj"], generator=anything).zero == "phi"  # it states no default
    assert AdapterConfig(["q_proj"], zero="psi").zero == "psi"


def test_a_generator_with_open_options_takes_any() -> None:
    assert AdapterConfig(["q_proj"], generator=anything, generator_options={"depth": 2}).generator_options == {
        "depth": 2
    }


def test_a_file_without_the_field_is_read() -> None:
    fields = written()
    del fields["generator_options"]
    assert AdapterConfig.from_dict(fields) == AdapterConfig(["q_proj"])


def test_options_are_the_configs_own_and_do_not_hinder_hashing() -> None:
    options = {"clusters": 3}
    config = AdapterConfig(["q_proj"], generator=PATH, generator_options=options)
    options["clusters"] = 4
    assert config.generator_options == {"clusters": 3}
    assert hash(config) == hash(AdapterConfig(["q_proj"], generator=PATH, generator_options={"clusters": 3}))


def local(width: int) -> Any:
    class Local(LinearGenerator):
        pass

    return Local


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"generator": lambda *_: None}, r"generator: <function <lambda> at .*> cannot be imported by name, .*; d"),
        ({"generator": local(1)}, r"generator: <class .*Local'> cannot be imported by name"),
        ({"generator": Holder.factory}, r"generator: <function Holder.factory .* cannot be imported by name"),
        ({"generator": Holder()}, r"generator: <\S+Holder object .* cannot be imported by name"),
        ({"generator": functools.partial(PaCaGenerator, 16)}, r"the partial of <class .*> fills arguments by position"),
        ({"generator": functools.partial(PaCaGenerator, clusters=3), "generator_options": {"clusters": 4}},
         r"generator_options: clusters is also given by the partial; give it once"),
        ({"generator": PATH, "generator_options": {"clutsers": 3}},
         r"PaCaGenerator has no option 'clutsers'; did you mean 'clusters'\?; it has clusters, assignment, norm"),
        ({"generator_options": {"clusters": 3}}, r"LinearGenerator has no option 'clusters'; it has none"),
        ({"generator": PATH, "generator_options": {"rank": 3}}, r"rank is a field of the adapter itself; take it out"),
        ({"generator": MixerGenerator, "generator_options": {"rows": 3}}, r"rows is filled from the layer; take it"),
        ({"generator": PATH, "generator_options": {"clusters": torch.ones(1)}}, r"clusters=tensor.* is no plain"),
        ({"generator": PATH, "generator_options": {"drop_path": float("nan")}}, r"drop_path=nan is no plain number"),
        ({"generator": PATH, "generator_options": {"clusters": (1, 2)}}, r"clusters=\(1, 2\) is no plain number"),
        ({"generator": "PaCa"}, r"wegeft_pl.generators has no class 'PaCa'"),
        ({"generator": "LinaerGenerator"}, r"no class 'LinaerGenerator'; did you mean 'LinearGenerator'\?"),
        ({"generator": "nowhere.Generator"}, r"generator: cannot import 'nowhere'"),
        ({"generator": torch.nn.Linear}, r"is not a subclass of wegeft_pl.generators.Generator"),
    ],
)  # fmt: skip
def test_wrong_generators_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterConfig(["q_proj"], **fields)
