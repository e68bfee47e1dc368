"""A tiny Llama that lives in a folder, and a task on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tasks.tiny_task import make_task
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from wegeft_pl.tasks import CausalLMTask


@pytest.fixture
def llama_folder(llama: LlamaForCausalLM, tmp_path: Path) -> Path:
    """The tiny Llama as a Hugging Face folder with a character tokenizer."""
    folder = tmp_path / "llama"
    llama.save_pretrained(folder)
    characters = ["<pad>", "<s>", "</s>", "<unk>"] + list("abcdefghijklmnopqrstuvwxyz0123456789#.+= \n")
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def task(llama_folder: Path) -> CausalLMTask:
    """A task with a rank-4 adapter, not yet built."""
    return make_task(llama_folder)
