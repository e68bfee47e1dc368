"""What several rooms' tests share: tiny models, the real data beside the project, and quiet, repeatable runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# Before torch is imported anywhere: small models gain nothing from threads and CI machines have two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from small_run import save_llama
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _processes_of_one_test_only() -> Iterator[None]:
    """Forgets how a test connected its processes: Lightning leaves that in the environment, for others to join."""
    names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
    before = {name: os.environ[name] for name in names if name in os.environ}
    yield
    for name in names:
        os.environ.pop(name, None)
    os.environ.update(before)


@pytest.fixture
def shared() -> Path:
    """The folder of real data and weights beside the project."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("real data is not here: no ../shared folder beside the project")
    return folder


@pytest.fixture
def llama() -> LlamaForCausalLM:
    """A Llama with grouped-query attention: 2 layers, width 16, 47 tokens, untied head."""
    torch.manual_seed(0)
    return LlamaForCausalLM(llama_config()).eval()


@pytest.fixture
def gpt2() -> GPT2LMHeadModel:
    """A GPT-2, whose layers are transposed linears with biases and whose head is tied."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=47, bos_token_id=1, eos_token_id=2)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def llama_folder(llama: LlamaForCausalLM, tmp_path: Path) -> Path:
    """The tiny Llama as a Hugging Face folder with a character tokenizer."""
    return save_llama(llama, tmp_path / "llama")


@pytest.fixture
def timm() -> ModuleType:
    """timm, where it can be imported: beside a CPU build of torch 2.13 there is no torchvision that fits."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    return timm


def llama_config(**changes: object) -> LlamaConfig:
    """The tiny Llama's config."""
    fields: dict[str, object] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 47,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return LlamaConfig(**(fields | changes))
