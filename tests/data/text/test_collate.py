"""Padding: right for the loss, left for generation, always masked by position."""

import pytest
import torch

from wegeft_pl.data.text.collate import LossCollator, ScoreCollator, ScoredExample, blank, get_pad_id, pad
from wegeft_pl.data.text.tokenize import EncodedExample, encode_example
from wegeft_pl.losses import IGNORED, labelled_positions

SHORT = EncodedExample([1, 5, 6, 2], [IGNORED, IGNORED, 6, 2], [1, 5], truncated=False)
LONG = EncodedExample([1, 7, 8, 9, 4, 2], [IGNORED, IGNORED, IGNORED, IGNORED, 4, 2], [1, 7, 8, 9], truncated=False)


def test_right_padding_for_the_loss():
    batch = LossCollator(pad_id=2)([SHORT, LONG])
    assert batch["input_ids"].tolist() == [[1, 5, 6, 2, 2, 2], [1, 7, 8, 9, 4, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert batch["labels"].tolist() == [[-100, -100, 6, 2, -100, -100], [-100, -100, -100, -100, 4, 2]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_left_padding_of_prompts():
    examples = [ScoredExample(3, "short", "6", SHORT), ScoredExample(9, "long", "4", LONG)]
    batch = ScoreCollator(pad_id=0)(examples)
    assert batch["prompt_ids"].tolist() == [[0, 0, 1, 5], [1, 7, 8, 9]]
    assert batch["prompt_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert (batch["id"], batch["prompt"], batch["reference"]) == ([3, 9], ["short", "long"], ["6", "4"])
    for name, tensor in LossCollator(pad_id=0)([SHORT, LONG]).items():
        assert torch.equal(batch[name], tensor)


def test_lengths_round_up():
    examples = [ScoredExample(0, "", "", SHORT), ScoredExample(1, "", "", LONG)]
    batch = ScoreCollator(pad_id=0, pad_to_multiple_of=8)(examples)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (2, 8)
    assert batch["prompt_ids"].shape == batch["prompt_mask"].shape == (2, 8)
    assert batch["attention_mask"].sum().item() == 10
    assert batch["prompt_mask"].sum(1).tolist() == [2, 4]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_adds_nothing_but_padding(side):
    sequences = [[1], [2, 3, 4], [5, 6]]
    padded = pad(sequences, -1, side)
    assert [[value for value in row if value != -1] for row in padded.tolist()] == sequences
    assert pad([[1, 2]], -1, side).tolist() == [[1, 2]]


def test_the_pad_id(make_tokenizer):
    assert get_pad_id(make_tokenizer("llama")) == 0
    assert get_pad_id(make_tokenizer("pad_is_eos")) == 2
    gpt2 = make_tokenizer("gpt2")
    assert gpt2.pad_token_id is None
    assert get_pad_id(gpt2) == gpt2.eos_token_id
    bare = make_tokenizer("no_eos")
    assert get_pad_id(bare) == 0


def test_the_labels_of_a_batch_are_those_of_its_examples(tokenizer):
    """Sum and order of labelled tokens survive padding, also where the pad id is a label (EOS)."""
    examples = [encode_example(tokenizer, f"Q{'?' * i}\n", f"{i}{'!' * (5 - i)}", 200) for i in range(5)]
    batch = LossCollator(get_pad_id(tokenizer))(examples)
    _, picked = labelled_positions(batch["labels"])
    assert picked.tolist() == [id for example in examples for id in example.labels if id != IGNORED]
    assert len(picked) == sum(example.num_labels for example in examples)
    assert picked.tolist().count(tokenizer.eos_token_id) == 5
    assert batch["attention_mask"].sum().item() == sum(len(example.input_ids) for example in examples)


def test_a_blank_batch_has_no_labels_and_no_ids():
    batch = {"input_ids": torch.tensor([[1, 2], [3, 4]]), "labels": torch.tensor([[-100, 2], [3, 4]]), "id": [5, 6]}
    empty = blank(batch)
    assert empty["labels"].tolist() == [[-100, -100], [-100, -100]]
    assert empty["id"] == [-1, -1]
    assert batch["labels"][1, 1] == 4
    assert "id" not in blank({"labels": batch["labels"]})


def test_tasks_stay_beside_their_rows():
    examples = [ScoredExample(0, "a", "1", SHORT, "boolq"), ScoredExample(1, "b", "2", LONG, "piqa")]
    assert ScoreCollator(0)(examples)["task"] == ["boolq", "piqa"]
    assert "task" not in ScoreCollator(0)([ScoredExample(0, "a", "1", SHORT)])
    with pytest.raises(AssertionError, match="some rows have a task and some have none"):
        ScoreCollator(0)([examples[0], ScoredExample(1, "b", "2", LONG)])
