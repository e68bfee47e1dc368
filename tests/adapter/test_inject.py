from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.generators import Generator

IDS = torch.arange(3, 23).reshape(2, 10)


class Squared(Generator):
    """A generator that is not linear in W."""

    def __init__(self, width: int, rank: int, zero: str, side: str) -> None:
        super().__init__(width, rank, zero, side)
        self.theta = nn.Parameter(torch.empty(width, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.theta)

    def forward(self, weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (weight_OI @ self.theta).square(), torch.ones(self.rank, self.width)


@pytest.mark.parametrize("form", ["edit", "factor"])
@pytest.mark.parametrize("zero", ["phi", "psi"])
def test_step_zero_is_the_pretrained_model(llama: LlamaForCausalLM, zero: str, form: str) -> None:
    before = llama(IDS).logits
    inject(llama, AdapterConfig("all-linear", rank=4, zero=zero, form=form))
    assert torch.equal(llama(IDS).logits, before)


def test_backbone_keys_and_classes_do_not_change(llama: LlamaForCausalLM) -> None:
    keys = set(llama.state_dict())
    classes = {name: type(module) for name, module in llama.named_modules()}
    inject(llama, AdapterConfig(["q_proj"], rank=4))
    assert {key for key in llama.state_dict() if "wegeft" not in key} == keys
    assert {name: type(llama.get_submodule(name)) for name in classes} == classes


def test_only_the_adapter_is_trainable_and_float32_on_a_bfloat16_base(llama: LlamaForCausalLM) -> None:
    llama.bfloat16()
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=4))
    trained = {name for name, parameter in llama.named_parameters() if parameter.requires_grad}
    assert trained == {"wegeft.q_proj.phi", "wegeft.q_proj.psi"} == {name for name, _ in adapter.named_parameters()}
    assert {parameter.dtype for _, parameter in adapter.named_parameters()} == {torch.float32}
    llama(IDS).logits.float().sum().backward()
    assert adapter.groups[0].generator.phi.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("sharing", "count", "owners"),
    [
        ("type", 2 * 4 * (16 + 24), {"wegeft.q_proj", "wegeft.down_proj"}),
        ("all", 2 * 4 * (16 + 24), {"wegeft.width_16", "wegeft.width_24"}),
        ("layer", 2 * 2 * 4 * (16 + 24), {f"model.layers.{i}.wegeft.{n}" for i in (0, 1) for n in
                                        ("self_attn_q_proj", "mlp_down_proj")}),
        ([r".*\.0\..*q_proj", r".*\.1\..*q_proj", ".*down_proj"], 2 * 4 * (16 + 16 + 24),
         {"model.layers.0.wegeft.group_0", "model.layers.1.wegeft.group_1", "wegeft.group_2"}),
    ],
)  # fmt: skip
def test_sharing_decides_owners_and_counts(llama: LlamaForCausalLM, sharing, count: int, owners: set[str]) -> None:
    adapter = inject(llama, AdapterConfig(["q_proj", "down_proj"], rank=4, sharing=sharing))
    assert adapter.num_parameters() == count
    assert {group.prefix for group in adapter.groups} == owners
    assert len(adapter.sites) == 4
    for prefix in owners:
        assert isinstance(llama.get_submodule(prefix), Generator)


def test_containers_that_run_their_children_still_run() -> None:
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(2)]
    model = nn.Sequential(*blocks)
    x = torch.randn(3, 4)
    before = model(x)
    adapter = inject(model, AdapterConfig(["0.0", "1.2"], rank=2, sharing="layer"))
    assert {group.host for group in adapter.groups} == {""}  # not inside a block that would run it
    assert torch.equal(model(x), before)


def test_shared_means_shared(llama: LlamaForCausalLM) -> None:
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=4))
    assert len({id(site.generator) for site in adapter.sites}) == 1
    llama(IDS).logits.sum().backward()
    together = adapter.groups[0].generator.phi.grad.clone()
    adapter.remove()
    torch.manual_seed(0)
    single = inject(llama, AdapterConfig(["q_proj"], rank=4, sharing="layer"))
    psi = adapter.groups[0].generator.psi
    for group in single.groups:
        group.generator.psi.data.copy_(psi)
    llama(IDS).logits.sum().backward()
    torch.testing.assert_close(together, sum(group.generator.phi.grad for group in single.groups))


def test_types_that_end_alike_get_distinct_names() -> None:
    block = nn.ModuleDict(
        {"attention": nn.ModuleDict({"output": nn.Linear(4, 4)}), "output": nn.Linear(4, 4), "fc": nn.Linear(4, 4)}
    )
    adapter = inject(nn.ModuleList([block]), AdapterConfig(["output", "fc"], rank=2))
    assert len({group.name for group in adapter.groups}) == 3
    assert "fc" in {group.name for group in adapter.groups}
    assert "attention.output" in {group.name for group in adapter.groups}


def test_deep_copies_are_independent_and_keep_the_sharing(llama: LlamaForCausalLM) -> None:
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=4))
    before = llama(IDS).logits
    twin = copy.deepcopy(llama)
    nn.init.normal_(twin.wegeft.q_proj.phi)
    assert torch.equal(llama(IDS).logits, before)
    assert not torch.allclose(twin(IDS).logits, before)
    assert len({id(site.generator) for site in twin._wegeft_adapter.sites}) == 1
    twin._wegeft_adapter.remove()
    assert torch.equal(twin(IDS).logits, before)
    assert llama.wegeft.q_proj is adapter.groups[0].generator


def test_remove_restores_the_model(llama: LlamaForCausalLM) -> None:
    before, keys = llama(IDS).logits, list(llama.state_dict())
    adapter = inject(llama, AdapterConfig("all-linear", rank=4, sharing="layer"))
    for _, parameter in adapter.named_parameters():
        nn.init.normal_(parameter)
    adapter.remove()
    assert list(llama.state_dict()) == keys
    assert torch.equal(llama(IDS).logits, before)
    inject(llama, AdapterConfig(["q_proj"]))  # a removed adapter leaves room for another


def test_compiled_as_one_graph(llama: LlamaForCausalLM) -> None:
    adapter = inject(llama, AdapterConfig("all-linear", rank=4))
    for _, parameter in adapter.named_parameters():
        nn.init.normal_(parameter, std=0.1)
    expected = llama(IDS, use_cache=False).logits
    compiled = torch.compile(llama, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IDS, use_cache=False).logits, expected)


def test_also_train_is_trained_counted_and_float32(llama: LlamaForCausalLM) -> None:
    llama.bfloat16()
    before = llama(IDS).logits
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=4, also_train=["norm", "lm_head"]))
    names = [name for name, _ in adapter.named_parameters()]
    assert names[2:] == ["model.norm.weight", "lm_head.weight"]
    assert adapter.num_parameters() == 2 * 4 * 16 + 16 + 47 * 16
    assert llama.lm_head.weight.dtype == torch.float32
    after = llama(IDS).logits
    assert after.dtype == torch.bfloat16
    torch.testing.assert_close(after, before, rtol=0.02, atol=0.02)
    adapter.remove()
    assert llama.lm_head.weight.dtype == torch.bfloat16
    assert not llama.lm_head.weight.requires_grad


def test_also_train_of_a_tied_head_keeps_the_tie_in_a_bfloat16_base(gpt2: GPT2LMHeadModel) -> None:
    gpt2.bfloat16()
    inject(gpt2, AdapterConfig(["c_attn"], rank=4, also_train=["lm_head"]))
    assert gpt2.lm_head.weight is gpt2.transformer.wte.weight
    assert gpt2(IDS).logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sharing": "all", "targets": ["q_proj"], "also_train": ["self_attn"]},
         r"also_train: model.layers.0.self_attn holds the target model.layers.0.self_attn.q_proj"),
        ({"also_train": ["nrom"]}, r"also_train: no module matches 'nrom'; did you mean 'norm'\? this model has embed"),
        ({"also_train": ["act_fn"]}, r"also_train: model.layers.0.mlp.act_fn is a \w+ without parameters"),
        ({"targets": ["q_proj", "down_proj"], "sharing": [".*proj"]},
         r"group group_0: model.layers.0.self_attn.q_proj has 16 input features and \S+down_proj has 24"),
        ({"sharing": [".*k_proj"]}, r"sharing: model.layers.0.self_attn.q_proj is a target but matches none"),
        ({"sharing": [".*", ".*k_proj"]}, r"sharing: '.\*k_proj' takes no target"),
        ({"generator": "wegeft_pl.generators.LinaerGenerator"}, r"no class 'LinaerGenerator'; did you mean 'LinearG"),
        ({"generator": "nowhere.Generator"}, r"generator: cannot import 'nowhere'"),
        ({"generator": "torch.nn.Linear"}, r"generator: 'torch.nn.Linear' is not a subclass"),
        ({"generator": Squared, "form": "edit"}, r"form: edit needs a generator that is linear in W, and Squared is"),
        ({"generator": Squared, "side": "output"}, r"side: output needs a generator that is linear in W"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(llama: LlamaForCausalLM, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inject(llama, AdapterConfig(**({"targets": ["q_proj"]} | fields)))
    assert all(parameter.requires_grad for parameter in llama.parameters())  # nothing was half done


def test_double_injection_is_refused(llama: LlamaForCausalLM) -> None:
    inject(llama, AdapterConfig(["q_proj"]))
    with pytest.raises(ValueError, match=r"already has an adapter; call adapter.remove\(\)"):
        inject(llama, AdapterConfig(["v_proj"]))


def test_tied_modules_trained_together_are_one_parameter(gpt2: GPT2LMHeadModel) -> None:
    gpt2.bfloat16()
    before = gpt2(IDS).logits
    adapter = inject(gpt2, AdapterConfig(["c_attn"], rank=4, also_train=["wte", "lm_head"]))
    assert [name for name, _ in adapter.named_parameters()][2:] == ["transformer.wte.weight"]
    assert adapter.num_parameters() == 2 * 4 * 16 + 47 * 16
    nn.init.normal_(gpt2.lm_head.weight)
    assert gpt2(IDS).logits.dtype == torch.bfloat16
    adapter.remove()
    assert gpt2.lm_head.weight is gpt2.transformer.wte.weight
    assert gpt2.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(gpt2(IDS).logits, before)  # the base's values are back too


def test_groups_that_would_share_a_name_are_refused_and_nothing_is_left() -> None:
    model = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(4, 4)}), "a_b": nn.Linear(4, 4)})
    for _ in range(2):
        with pytest.raises(ValueError, match=r"groups a.b and a_b would both be wegeft.a_b; use sharing with"):
            inject(model, AdapterConfig(["b", "a_b"], sharing="layer"))
    assert not any("wegeft" in name for name, _ in model.named_modules())


def test_a_nonlinear_generator_is_served_by_the_factor_form(llama: LlamaForCausalLM) -> None:
    before = llama(IDS).logits
    adapter = inject(llama, AdapterConfig(["q_proj"], rank=4, generator=Squared))
    assert {site.form for site in adapter.sites} == {"factor"}
    assert torch.equal(llama(IDS).logits, before)
    nn.init.normal_(adapter.groups[0].generator.theta)
    assert not torch.allclose(llama(IDS).logits, before)


def test_injecting_on_the_meta_device_counts_without_weights() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(1 << 16, 1 << 16))
    assert inject(model, AdapterConfig(["0"], rank=8)).num_parameters() == 2 * 8 * (1 << 16)
