"""Pretrain the quickstart's base: a Llama of 0.86 M parameters, from scratch, on SYNTHETIC word problems.

    python -m wegeft_pl.quickstart.pretrain --output DIR [--steps N --seed S --threads T]

The text is drawn on the fly (see word_problems.py). After it the base answers an expression by a chain that ends in
"#### n", but a story by a bare number: the habit that the quickstart's fine-tuning changes.

Legend: B rows, T tokens.
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from wegeft_pl.quickstart.word_problems import (
    EXPRESSION_PROMPT,
    PROMPT,
    Document,
    build_split,
    pretraining_documents,
    sample_expression,
)

STEPS, SEED, THREADS = 1300, 0, 1
ROWS, ROW_LENGTH, OPEN_ROWS = 32, 128, 8
LEARNING_RATE, WARMUP_STEPS, WEIGHT_DECAY, CLIP_NORM = 3e-3, 100, 0.05, 1.0
GIVEN_WEIGHT = 0.1  # a question's names and numbers cannot be guessed: they would drown what can be learned
VOCABULARY_SIZE, TOKENIZER_DOCUMENTS = 512, 20_000
PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def train_tokenizer(documents: Iterator[Document]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with digits split one by one, so any text can be encoded and every number is spelt alike.

    Args:
        documents: text to train on.

    Returns:
        A tokenizer that puts <s> in front, with distinct <pad>, <s> and </s> and no chat template.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.prompt + document.response for document in documents), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=ROW_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build the base with random weights from torch's global seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2 * ROW_LENGTH,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=32,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model


@dataclass
class Row:
    """Whole documents laid end to end: tokens, the document each belongs to, and the weight of predicting each."""

    tokens: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def to_tensors(self, pad_token_id: int) -> dict[str, Tensor]:
        """Pad to ROW_LENGTH; padding is segment -1 and weighs nothing. Each tensor is (T,)."""
        gap = ROW_LENGTH - len(self.tokens)
        return {
            "tokens": torch.tensor(self.tokens + [pad_token_id] * gap),
            "segments": torch.tensor(self.segments + [-1] * gap),
            "weights": torch.tensor(self.weights + [0.0] * gap),
        }


def pack_rows(documents: Iterator[Document], tokenizer: PreTrainedTokenizerFast) -> Iterator[dict[str, Tensor]]:
    """Pack documents into rows of ROW_LENGTH tokens, each into the first open row that has room.

    Args:
        documents: an endless stream.
        tokenizer: its <s> and </s> frame every document.

    Yields:
        One row: "tokens", "segments" and "weights", each (T,).
    """
    rows = [Row() for _ in range(OPEN_ROWS)]
    for document in documents:
        whole, weights = [tokenizer.bos_token_id], [0.0]  # <s> cannot be guessed from the document before
        for index, piece in enumerate(document.pieces):
            piece_tokens = tokenizer(piece, add_special_tokens=False)["input_ids"]
            whole += piece_tokens
            weights += [1.0 if index % 2 else GIVEN_WEIGHT] * len(piece_tokens)
        whole.append(tokenizer.eos_token_id)
        weights.append(1.0)
        fitting = [row for row in rows if len(row.tokens) + len(whole) <= ROW_LENGTH]
        if not fitting:
            fullest = max(rows, key=lambda row: len(row.tokens))
            yield fullest.to_tensors(tokenizer.pad_token_id)
            rows.remove(fullest)
            fitting = [Row()]
            rows.append(fitting[0])
        row = fitting[0]
        row.segments += [row.segments[-1] + 1 if row.segments else 0] * len(whole)
        row.tokens += whole
        row.weights += weights


def weighted_loss(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> Tensor:
    """Next-token cross entropy, weighted by token, with attention confined to each document.

    Args:
        model: the language model.
        batch: "tokens", "segments" and "weights", each (B, T).

    Returns:
        The weighted mean over the batch's tokens, a scalar.
    """
    segments = batch["segments"]
    same = segments[:, :, None] == segments[:, None, :]
    mask = (same & torch.ones_like(same[0]).tril())[:, None]  # (B, 1, T, T), True: may attend
    logits = model(input_ids=batch["tokens"], attention_mask=mask, use_cache=False).logits
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch["tokens"][:, 1:].flatten(), reduction="none")
    weights = batch["weights"][:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero.

    Example:
        >>> learning_rate_factor(0, 1000), learning_rate_factor(1000, 1000)
        (0.01, 0.0)
    """
    warmup = min((step + 1) / WARMUP_STEPS, 1.0)
    return warmup * 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * step / steps, dtype=torch.float64))))


@torch.no_grad()
def answer(model: Any, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[str]:
    """Answer prompts greedily, at most 32 tokens each."""
    tokenizer.padding_side = "left"
    encoded = tokenizer(list(prompts), return_tensors="pt", padding=True)
    output = model.generate(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])
    return tokenizer.batch_decode(output[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)


def probe(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, size: int = 120) -> dict[str, float]:
    """Score what the base should know, on held-out stories and fresh expressions: the share answered exactly."""
    rng = random.Random("probe")
    problems = build_split(1, size, held_out=True)
    chains = [sample_expression(rng) for _ in range(size)]
    pairs = {
        "chain": [(chain.prompt, chain.response) for chain in chains],
        "direct": [(PROMPT.format(question=p.question), str(p.result)) for p in problems],
        "expression": [(EXPRESSION_PROMPT.format(question=p.question), p.expression) for p in problems],
    }
    model.eval()
    scores = {}
    for kind, rows in pairs.items():
        replies = answer(model, tokenizer, [prompt for prompt, _ in rows])
        scores[kind] = sum(reply == wanted for reply, (_, wanted) in zip(replies, rows, strict=True)) / size
    model.train()
    return scores


def pretrain(steps: int, seed: int, probe_every: int = 500) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train tokenizer and model from a seed, printing the loss and the probes.

    Args:
        steps: optimiser steps of ROWS x ROW_LENGTH tokens.
        seed: seed of the text and the weights.
        probe_every: steps between two probes; 0 never probes.

    Returns:
        The model, in eval mode, and the tokenizer.
    """
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(islice(pretraining_documents(seed), TOKENIZER_DOCUMENTS))
    model = build_model(tokenizer)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    rows = pack_rows(pretraining_documents(seed), tokenizer)
    started = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_factor(step, steps)
        drawn = list(islice(rows, ROWS))
        loss = weighted_loss(model, {key: torch.stack([row[key] for row in drawn]) for key in drawn[0]})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.4f} seconds {time.perf_counter() - started:.0f}", flush=True)
        if probe_every and (step + 1) % probe_every == 0:
            print(f"step {step + 1} probe {probe(model, tokenizer)}", flush=True)
    return model.eval(), tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Pretrain and write a Hugging Face folder."""
    parser = argparse.ArgumentParser(description="Pretrain the quickstart's base on synthetic word problems.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=THREADS, help="CPU threads; other counts round differently")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model, tokenizer = pretrain(options.steps, options.seed)
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)


if __name__ == "__main__":
    main()
