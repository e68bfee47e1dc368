"""Bases in 4 and 8 bits: what trains on them, what is refused, and what they take."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import llama_config
from small_run import SmallData, injector, make_task, make_trainer, save_llama
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject, load_adapter, merge
from wegeft_pl.accounting import activation_bytes, count_parameters, weight_bytes
from wegeft_pl.adapter import Adapter
from wegeft_pl.adapter.quantized import SCHEMES, planned_bytes, quantization_of, scheme_of, stored_bytes
from wegeft_pl.backbones import build, huggingface, quantized
from wegeft_pl.callbacks import AdapterMerge
from wegeft_pl.tasks import CausalLMTask
from wegeft_pl.tasks.compiled import compile_blocks
from wegeft_pl.tasks.quantized import check_quantised_run

#: What has kernels for CPUs. torchao-int4 has none.
ON_CPU = ("bnb-nf4", "bnb-fp4", "bnb-int8", "torchao-int8")
FOUR_BITS = ("bnb-nf4", "bnb-fp4")
IDS = torch.arange(4, 44).reshape(2, 20)
CONFIG = AdapterConfig("all-linear", rank=4, alpha=8)


def need(scheme: str) -> None:
    package = quantized.PACKAGES[scheme.partition("-")[0]][0]
    pytest.importorskip(package, reason=f"{scheme} needs {package}; pip install {package}", exc_type=ImportError)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A Llama folder whose widths are multiples of 64, as 4-bit blocks like them."""
    torch.manual_seed(0)
    config = llama_config(hidden_size=64, intermediate_size=128)
    return save_llama(LlamaForCausalLM(config), tmp_path / "wide")


@pytest.fixture(params=ON_CPU)
def scheme(request: pytest.FixtureRequest) -> str:
    need(request.param)
    return str(request.param)


def load(folder: Path, scheme: str | None, **options: Any) -> Any:
    return huggingface.load(str(folder), causal_lm=True, quantize=scheme, **{"dtype": "float32", **options})


def adapted(model: nn.Module, config: AdapterConfig = CONFIG) -> Adapter:
    """An adapter whose values are as after training."""
    adapter = inject(model, config)
    generator = torch.Generator().manual_seed(1)
    for tensor in adapter.state_dict().values():
        tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return adapter


def gradients(model: Any) -> list[Tensor]:
    model.train()
    loss = model(IDS.to(model.device), use_cache=False).logits.float().square().sum()
    return list(torch.autograd.grad(loss, [parameter for parameter in model.parameters() if parameter.requires_grad]))


def assert_close(found: list[Tensor], expected: list[Tensor], relative: float) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < relative


def test_gradients_are_those_of_the_dequantised_weights(wide: Path, scheme: str) -> None:
    model, plain = load(wide, scheme), load(wide, scheme)
    quantized.dequantize(plain)
    assert scheme_of(model.parameters()) == scheme
    assert scheme_of(plain.parameters()) is None
    adapted(model)
    adapted(plain)
    assert_close(gradients(model), gradients(plain), 1e-5)


def test_the_original_weights_give_other_gradients(wide: Path, scheme: str) -> None:
    model, plain = load(wide, scheme), load(wide, None)
    adapted(model)
    adapted(plain)
    first, other = gradients(model)[0], gradients(plain)[0]
    assert float((first - other).norm() / other.norm()) > 1e-3, "nothing was quantised"


def test_scoring_before_training_leaves_the_gradients_as_they_are(wide: Path, scheme: str) -> None:
    # bitsandbytes repacks 4-bit weights for inference where the CPU has AVX-512 BF16, and trains wrongly on them.
    model = load(wide, scheme)
    adapted(model)
    expected = gradients(model)
    model.eval()
    with torch.no_grad():
        tokens = model.generate(IDS, max_new_tokens=3, do_sample=False)
    assert tokens.shape == (2, 23)
    assert_close(gradients(model), expected, 1e-6)


def test_a_bfloat16_base_gives_float32_gradients(wide: Path, scheme: str) -> None:
    model, plain = load(wide, scheme, dtype="bfloat16"), load(wide, scheme, dtype="bfloat16")
    assert model.model.norm.weight.dtype == torch.bfloat16
    quantized.dequantize(plain)
    adapted(model)
    adapted(plain)
    assert_close(gradients(model), gradients(plain), 0.05)  # torchao scales after the product, not before


def test_a_run_trains_the_adapter_and_saves_nothing_else(wide: Path, scheme: str, tmp_path: Path) -> None:
    task = make_task(wide, quantize=scheme, dtype="float32")
    trainer = make_trainer(tmp_path, AdapterMerge(enabled=False))
    trainer.fit(task, datamodule=SmallData())  # validates by generated answers, too
    assert task.adapter is not None
    state = task.adapter.state_dict()
    assert all(float(tensor.abs().max()) > 1e-3 for tensor in state.values()), "phi started at zero"
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == {f"backbone.{name}" for name in state}
    assert saved["wegeft_pl"]["base"]["quantization"] == scheme
    assert float(trainer.callback_metrics["val/loss"]) > 0
    again = CausalLMTask.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert again.quantize == scheme


def test_no_merged_model_and_a_warning_that_names_the_command(wide: Path, scheme: str, tmp_path: Path) -> None:
    task, callback = make_task(wide, quantize=scheme), AdapterMerge()
    trainer = make_trainer(tmp_path, callback, max_steps=1, limit_val_batches=0)
    with pytest.warns(
        UserWarning,
        match=rf"no merged model: the base is quantised \({scheme}\).* wegeft_pl merge with --base original or",
    ):
        trainer.fit(task, datamodule=SmallData())
    assert not (tmp_path / "merged").exists()
    assert "the base is quantised" in str(callback.report())


def test_the_adapter_goes_back_to_the_same_quantised_base_and_to_the_original(
    wide: Path, scheme: str, tmp_path: Path
) -> None:
    model = load(wide, scheme)
    adapter = adapted(model)
    assert adapter.fingerprint.quantization == scheme
    assert f"/{scheme}-" in adapter.fingerprint.short()
    adapter.save(tmp_path / "adapter", base_name=str(wide))
    again = load(wide, scheme)
    load_adapter(again, tmp_path / "adapter")
    assert torch.equal(again.train()(IDS).logits, model.train()(IDS).logits)
    load_adapter(load(wide, None), tmp_path / "adapter")
    load_adapter(load(wide, None, dtype="bfloat16"), tmp_path / "adapter")


def test_another_base_is_refused_though_its_weights_are_quantised(wide: Path, scheme: str, tmp_path: Path) -> None:
    adapted(load(wide, scheme)).save(tmp_path / "adapter")
    other = LlamaForCausalLM.from_pretrained(wide)
    other.model.norm.weight.data += 0.5
    save_llama(other, tmp_path / "other")
    with pytest.raises(ValueError, match="was trained on another base"):
        load_adapter(load(tmp_path / "other", scheme), tmp_path / "adapter")
    with pytest.raises(ValueError, match="was trained on another base"):
        load_adapter(load(tmp_path / "other", None), tmp_path / "adapter")


def test_reading_the_weights_is_refused(wide: Path, scheme: str, tmp_path: Path) -> None:
    model = load(wide, scheme)
    adapter = adapted(model)
    for reads in (
        adapter.sites[0].factors,
        lambda: merge(model, adapter),
        lambda: adapter.export_lora(tmp_path / "lora"),
    ):
        with pytest.raises(ValueError, match=rf"q_proj stores a quantised weight \({scheme}\) .* --base dequantized"):
            reads()


@pytest.mark.parametrize("meta", [False, True])
def test_what_needs_the_weights_is_refused_at_injection(wide: Path, scheme: str, meta: bool) -> None:
    model = load(wide, scheme, meta=meta)
    for fields in ({"form": "factor"}, {"weight_dropout": 0.1}):
        with pytest.raises(ValueError, match=rf"is quantised \({scheme}\) and the factor form reads its weight; use"):
            inject(model, AdapterConfig(["q_proj"], rank=2, **fields))
    with pytest.raises(
        ValueError, match=rf"also_train: .*down_proj is quantised \({scheme}\), and such weights cannot"
    ):
        inject(model, AdapterConfig(["q_proj"], rank=2, also_train=["down_proj"]))
    inject(model, AdapterConfig(["q_proj"], rank=2, side="output", also_train=["norm", "lm_head"]))


def test_plan_counts_the_bytes_and_numbers_of_the_loaded_model(wide: Path, scheme: str) -> None:
    for dtype in ("float32", "bfloat16"):
        real, planned = (load(wide, scheme, dtype=dtype, meta=meta) for meta in (False, True))
        stored = {name: stored_bytes(p) for name, p in real.named_parameters() if quantization_of(p) is not None}
        assert len(stored) == 14
        assert stored == {n: stored_bytes(p) for n, p in planned.named_parameters() if quantization_of(p) is not None}
        assert weight_bytes(deepcopy(planned)) == weight_bytes(planned)
        # Buffers: the meta model has the same ones.
        assert weight_bytes(real) == weight_bytes(planned) < 0.7 * weight_bytes(load(wide, None, dtype=dtype))
        adapters = adapted(real), inject(planned, CONFIG)
        counts = [count_parameters(m, a) for m, a in zip((real, planned), adapters, strict=True)]
        assert counts[0] == counts[1]
        activations = [activation_bytes(m, lambda m=m: m(IDS, use_cache=False).logits.sum()) for m in (real, planned)]
        assert activations[0] == activations[1] > 0
        assert all("forward" not in vars(module) for module in real.modules()), "the layers have their own forward back"


@pytest.mark.parametrize("tied", [False, True])
def test_plan_knows_which_layers_are_left_alone(scheme: str, tied: bool, tmp_path: Path) -> None:
    folder = tmp_path / "gpt2"
    if tied:
        GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=47, n_positions=32)).save_pretrained(
            folder
        )
    else:
        LlamaForCausalLM(llama_config(hidden_size=64, intermediate_size=128)).save_pretrained(folder)
    names = [
        {name for name, p in load(folder, scheme, meta=meta).named_parameters() if quantization_of(p) is not None}
        for meta in (False, True)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize("four", FOUR_BITS)
def test_four_bits_take_4_127_bits_a_number(four: str) -> None:
    # 4 bits, 8 for 64 numbers, 32 for 64 * 256 numbers, and 1092 bytes of tables a weight.
    count = 4096 * 4096
    assert planned_bytes(four, 4096, 4096) * 8 == count * 4 + count // 64 * 8 + count // (64 * 256) * 32 + 1092 * 8


def test_int4_of_torchao_takes_4_25_bits_a_number_where_nothing_is_filled_up() -> None:
    assert planned_bytes("torchao-int4", 4096, 4096) * 8 == 4096 * 4096 * 4.25
    assert planned_bytes("torchao-int4", 4090, 4000) == planned_bytes("torchao-int4", 4096, 4096)


def test_dequantised_models_are_plain_models(wide: Path, scheme: str, tmp_path: Path) -> None:
    model = load(wide, scheme)
    logits = model.train()(IDS).logits
    quantized.dequantize(model)
    huggingface.save(model, tmp_path / "plain", None)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert all(type(module) is nn.Linear for name, module in plain.named_modules() if name.endswith("_proj"))
    torch.testing.assert_close(plain(IDS).logits, logits, rtol=1e-4, atol=1e-5)
    half = load(wide, scheme)
    quantized.dequantize(half, torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.config.dtype == torch.bfloat16


@pytest.mark.parametrize("four", FOUR_BITS)
def test_transposed_linears_come_back_as_such(four: str, tmp_path: Path) -> None:
    need(four)
    config = GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=32, vocab_size=47, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    model = load(tmp_path / "gpt2", four)
    logits = model(IDS).logits
    quantized.dequantize(model)
    huggingface.save(model, tmp_path / "plain", None)
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(tmp_path / "plain")(IDS).logits, logits)


def test_a_quantised_checkpoint_loads_as_it_is(wide: Path, scheme: str, tmp_path: Path) -> None:
    load(wide, scheme).save_pretrained(tmp_path / "small")
    for meta in (False, True):
        model = load(tmp_path / "small", None, meta=meta)
        assert scheme_of(model.parameters()) == scheme
        assert weight_bytes(model) == weight_bytes(load(wide, scheme))
    assert huggingface.quantization(str(tmp_path / "small")) == scheme
    model = load(tmp_path / "small", None)
    adapted(model)
    expected = load(wide, scheme)
    adapted(expected)
    assert_close(gradients(model), gradients(expected), 1e-5)
    with pytest.raises(ValueError, match=rf"are quantised already \({scheme}\); leave quantize out"):
        load(tmp_path / "small", scheme)


def test_encoders_are_quantised_too(scheme: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(**sizes, vocab_size=47)).save_pretrained(tmp_path / "bert")
    real, planned = (build(str(tmp_path / "bert"), quantize=scheme, meta=meta) for meta in (False, True))
    assert scheme_of(real.parameters()) == scheme
    assert weight_bytes(real) == weight_bytes(planned)


# Refusals before anything is loaded


def test_an_unknown_scheme_is_refused(wide: Path) -> None:
    for meta in (False, True):
        with pytest.raises(
            ValueError, match="quantize: 'nf4' is not one of bnb-nf4, bnb-fp4, bnb-int8, torchao-int8, "
        ):
            load(wide, "nf4", meta=meta)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, wide: Path, scheme: str) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    package = "torchao" if scheme.startswith("torchao") else "bitsandbytes"
    with pytest.raises(ValueError, match=f"quantize: {scheme} needs {package}; pip install {package}"):
        load(wide, scheme)
    load(wide, scheme, meta=True)  # a plan needs no package


def test_int4_needs_cuda_and_bfloat16(monkeypatch: pytest.MonkeyPatch, wide: Path) -> None:
    need("torchao-int4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torchao-int4 needs a CUDA device; on a CPU use bnb-nf4 or torchao-int8"):
        load(wide, "torchao-int4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"torchao-int4 computes in bfloat16, got dtype torch.float32; set dtype"):
        quantized.loading_arguments("torchao-int4", torch.float32)


def test_timm_models_are_not_quantised(timm: Any) -> None:
    with pytest.raises(ValueError, match="quantize: 'vit_tiny_patch16_224' is a timm model, and only Hugging Face"):
        build("vit_tiny_patch16_224", quantize="bnb-nf4")


def test_runs_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bnb-nf4 weights cannot be sharded; use --trainer\.strategy ddp"):
        check_quantised_run("bnb-nf4", True, "test")
    with pytest.raises(ValueError, match="no gradient passes through them; train with bnb-nf4"):
        check_quantised_run("torchao-int4", False, "fit")
    check_quantised_run("torchao-int4", False, "test")
    check_quantised_run("bnb-nf4", False, "fit")
    check_quantised_run(None, True, "fit")


def test_a_run_asks_before_it_loads(wide: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match="torchao-int4 has kernels for scoring only"):
        trainer.fit(make_task(wide, quantize="torchao-int4"), datamodule=SmallData())


def test_an_unknown_kind_of_quantised_weight_is_seen_and_cannot_be_undone() -> None:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    assert quantization_of(layer.weight) == "int8"
    with pytest.raises(ValueError, match="head: a weight quantised by int8 cannot be dequantised here; merge into the"):
        quantized.numbers(layer, "head")


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "torchao-int4"])
def test_on_cuda_gradients_are_those_of_the_dequantised_weights(wide: Path, scheme: str) -> None:
    need(scheme)
    model, plain = (load(wide, scheme, dtype="bfloat16").cuda() for _ in range(2))
    quantized.dequantize(plain)
    for one in (model, plain):
        adapted(one)
        one.cuda()
    model.eval()
    with torch.no_grad():
        assert model.generate(IDS.cuda(), max_new_tokens=3, do_sample=False).shape == (2, 23)
    assert_close(gradients(model), gradients(plain), 0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "torchao-int4"])
def test_on_cuda_a_run_trains_and_scores(wide: Path, scheme: str, tmp_path: Path) -> None:
    need(scheme)
    task = make_task(wide, quantize=scheme, dtype="bfloat16")
    trainer = make_trainer(tmp_path, accelerator="cuda", precision="bf16-mixed")
    trainer.fit(task, datamodule=SmallData())
    assert task.adapter is not None
    assert all(float(tensor.abs().max()) > 1e-3 for tensor in task.adapter.state_dict().values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_int4_scores_and_takes_what_was_planned(tmp_path: Path) -> None:
    need("torchao-int4")
    config = llama_config(hidden_size=1024, intermediate_size=2048)
    folder = save_llama(LlamaForCausalLM(config), tmp_path / "int4")
    model, planned = (load(folder, "torchao-int4", dtype="bfloat16", meta=meta) for meta in (False, True))
    adapted(model)
    model.cuda()
    with torch.no_grad():
        logits = model(IDS.cuda()).logits
        adapter = model.generate(IDS.cuda(), max_new_tokens=3, do_sample=False)
    assert torch.isfinite(logits).all()
    assert adapter.shape == (2, 23)
    stored = {name: stored_bytes(p) for name, p in model.named_parameters() if quantization_of(p) is not None}
    assert stored == {n: stored_bytes(p) for n, p in planned.named_parameters() if quantization_of(p) is not None}


def test_the_injector_takes_a_quantised_base(wide: Path, scheme: str) -> None:
    assert inject(load(wide, scheme), injector().config()).num_parameters() > 0


def test_compiled_blocks_have_no_graph_breaks(wide: Path, scheme: str) -> None:
    model = load(wide, scheme)
    adapted(model)
    expected = gradients(model)
    torch._dynamo.reset()
    counters.clear()
    compile_blocks(model, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch._dynamo's own; see tests/tasks/test_compiled.py
        assert_close(gradients(model), expected, 1e-6)
    assert not counters["graph_break"]
