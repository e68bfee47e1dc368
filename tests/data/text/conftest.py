"""Tiny tokenizers of every kind that has bitten somebody, built without a network."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SHARED = Path(__file__).resolve().parents[4] / "shared"
LETTERS = [chr(code) for code in range(32, 127)] + ["\n"]


def byte_level():
    """A byte-level BPE without merges: every byte is a token, nothing is added around a text (like GPT-2)."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def characters(merges=(), before=(), after=()):
    """A character BPE with <s> and </s>; `before` and `after` are the special tokens put around a text."""
    names = ["<unk>", "<s>", "</s>", *LETTERS, *("".join(pair) for pair in merges)]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after], special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def llama_like(merges=()):
    """Adds BOS, writes a space as an underline and puts one in front of a text (like Llama 2)."""
    names = ["<unk>", "<s>", "</s>", "\u2581", *LETTERS, *("".join(pair) for pair in merges)]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


BUILDERS = {
    "llama": lambda: PreTrainedTokenizerFast(
        tokenizer_object=llama_like(), bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    ),
    "pad_is_eos": lambda: PreTrainedTokenizerFast(
        tokenizer_object=characters(before=["<s>"]), bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ),
    "gpt2": lambda: PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ),
    "no_bos": lambda: PreTrainedTokenizerFast(tokenizer_object=characters(), eos_token="</s>", pad_token="<unk>"),
    "appends_eos": lambda: PreTrainedTokenizerFast(
        tokenizer_object=characters(before=["<s>"], after=["</s>"]),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    ),
    # ":7" and "\nS" are one token each, so a joint text does not begin with the ids of its prompt.
    "merges_the_boundary": lambda: PreTrainedTokenizerFast(
        tokenizer_object=characters(merges=[(":", "7"), ("\n", "S")], before=["<s>"]),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    ),
    "no_eos": lambda: PreTrainedTokenizerFast(tokenizer_object=characters(), bos_token="<s>"),
}
GOOD = [name for name in BUILDERS if name != "no_eos"]


@pytest.fixture
def make_tokenizer():
    """Builds a tokenizer by its kind."""
    return lambda kind: BUILDERS[kind]()


@pytest.fixture(params=GOOD)
def tokenizer(request):
    """Every kind that has an EOS, one after the other."""
    return BUILDERS[request.param]()


@pytest.fixture
def write_rows(tmp_path):
    """Writes rows as JSON lines under a name and returns the file."""

    def write(name, rows):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return file

    return write


@pytest.fixture
def gsm8k_folder(tmp_path, write_rows):
    """A folder in GSM8K's layout: 20 training rows and 7 test rows of different lengths."""

    def rows(number, first):
        return [
            {"question": f"What is {i} + {i}{'?' * (i % 5 + 1)}", "answer": f"{i}+{i}={2 * i}\n#### {2 * i}"}
            for i in range(first, first + number)
        ]

    write_rows("gsm8k/train.jsonl", rows(20, 0))
    write_rows("gsm8k/test.jsonl", rows(7, 100))
    return tmp_path / "gsm8k"


@pytest.fixture
def shared():
    """The folder of real data and weights beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED
