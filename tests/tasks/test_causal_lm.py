from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tasks.tiny_task import Batch, loader, make_batch, make_task, trainer
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from wegeft_pl import merge
from wegeft_pl.losses import IGNORED
from wegeft_pl.metrics import gsm8k_strict, last_number
from wegeft_pl.tasks import CausalLMTask, TextEvaluation


def built(folder: Path, **fields: Any) -> CausalLMTask:
    task = make_task(folder, **fields)
    task.configure_model()
    return task


def test_loss_equals_the_one_from_full_logits(llama_folder: Path) -> None:
    task, batch = built(llama_folder), make_batch(4)
    loss_sum, count = task.loss(batch)
    logits = task.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).double(), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    assert count == (batch["labels"][:, 1:] != IGNORED).sum()
    assert loss_sum.item() == pytest.approx(expected.item(), rel=1e-5)


def test_logits_exist_only_where_there_is_a_label(llama_folder: Path) -> None:
    task, batch = built(llama_folder), make_batch(4)
    shapes = []
    task.model.get_output_embeddings().register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    _, count = task.loss(batch)
    assert shapes == [(1, int(count), 47)]


def test_the_head_is_whole_again_after_the_loss(llama_folder: Path) -> None:
    task, batch = built(llama_folder), make_batch(2)
    task.loss(batch)
    assert task.model(input_ids=batch["input_ids"]).logits.shape == (2, 12, 47)


def test_a_batch_without_labels_has_a_loss_of_zero(llama_folder: Path) -> None:
    task, batch = built(llama_folder), make_batch(2)
    loss_sum, count = task.loss(batch | {"labels": torch.full_like(batch["labels"], IGNORED)})
    assert (loss_sum.item(), count.item()) == (0.0, 0)
    loss_sum.backward()


def test_the_backbone_trains_in_train_mode_and_checkpointing_runs(llama_folder: Path) -> None:
    task = built(llama_folder, gradient_checkpointing=True)
    assert task.model.training
    calls = []
    layer = task.model.model.layers[0].self_attn
    layer.register_forward_hook(lambda *_: calls.append(1))
    task.loss(make_batch(2))[0].backward()
    assert len(calls) == 2  # once forward, once recomputed
    assert all(p.grad is not None for p in task.trainable_parameters())


def test_checkpointing_does_not_change_gradients(llama_folder: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        task = built(llama_folder, gradient_checkpointing=checkpointing)
        task.loss(make_batch(4))[0].backward()
        gradients.append([parameter.grad for parameter in task.trainable_parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def prompts(task: CausalLMTask, texts: list[str], references: list[str]) -> Batch:
    rows = [task.tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    labels = make_batch(len(rows))
    return labels | {
        "prompt_ids": ids, "prompt_mask": mask, "prompt": texts, "reference": references, "id": list(range(len(rows))),
    }  # fmt: skip


def test_generation_equals_step_by_step_argmax(llama_folder: Path) -> None:
    task = built(llama_folder)
    task.model.eval()
    texts = ["abc", "tom has 3"]
    outputs = task.generate_answers(prompts(task, texts, ["1", "2"]))
    for text, output in zip(texts, outputs, strict=True):
        ids = task.tokenizer(text, return_tensors="pt")["input_ids"]
        start = ids.shape[1]
        for _ in range(4):
            token = task.model(ids).logits[0, -1].argmax()
            if token == 2:
                break
            ids = torch.cat([ids, token[None, None]], 1)
        assert output == task.tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def test_decoding_is_greedy_and_stops_at_every_eos(llama_folder: Path) -> None:
    task = built(llama_folder)
    task.model.generation_config.eos_token_id = [2, 7]
    assert task.decoding["eos_token_id"] == [2, 7]
    assert task.decoding["do_sample"] is False
    json.dumps(task.decoding)


def test_evaluation_scores_loss_and_answers_and_counts_no_sample_twice(llama_folder: Path) -> None:
    task = built(llama_folder)
    answers = iter([["#### 4", "it is 5"], ["#### 4", "it is 5"]])
    extractors = {"exact_match": gsm8k_strict, "flexible_match": last_number}
    evaluation = TextEvaluation(task.loss, lambda batch: next(answers), extractors)
    batch = prompts(task, ["a", "b"], ["4", "5"])
    predictions = evaluation.update(batch)
    assert [p.correct for p in predictions] == [
        {"exact_match": True, "flexible_match": True},
        {"exact_match": False, "flexible_match": True},
    ]
    evaluation.update(batch)  # a repeat of the same samples
    scores = evaluation.compute()
    assert scores["exact_match"] == 0.5
    assert scores["flexible_match"] == 1.0
    loss_sum, count = task.loss(batch)
    assert scores["loss"] == pytest.approx((loss_sum / count).item(), rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    assert json.dumps(predictions[0].to_dict())
    evaluation.reset()
    assert evaluation.compute() == {}


def test_rows_that_fill_up_a_batch_are_neither_counted_nor_predicted(llama_folder: Path) -> None:
    task = built(llama_folder)
    evaluation = TextEvaluation(task.loss, lambda batch: ["#### 4", "#### 4"], {"exact_match": gsm8k_strict})
    batch = prompts(task, ["a", "b"], ["5", "4"])
    batch["id"] = [0, -1]
    batch["labels"][1] = IGNORED
    assert [prediction.id for prediction in evaluation.update(batch)] == [0]
    assert evaluation.compute()["exact_match"] == 0.0
    loss_sum, count = task.loss(batch)
    assert evaluation.compute()["loss"] == pytest.approx(loss_sum.item() / count.item(), rel=1e-5)


def test_loss_of_an_evaluation_is_weighted_by_tokens(llama_folder: Path) -> None:
    task = built(llama_folder)
    evaluation = TextEvaluation(task.loss, None, {})
    short, long = make_batch(1), make_batch(6, seed=1)
    evaluation.update(short)
    evaluation.update(long)
    sums = [task.loss(batch) for batch in (short, long)]
    expected = sum(s.item() for s, _ in sums) / sum(n.item() for _, n in sums)
    assert evaluation.compute()["loss"] == pytest.approx(expected, rel=1e-5)


def test_validate_and_test_log_scores(task: CausalLMTask, tmp_path: Path) -> None:
    run = trainer(tmp_path)
    (validated,) = run.validate(task, loader([make_batch(2)]), verbose=False)
    (tested,) = run.test(task, loader([make_batch(2)]), verbose=False)
    assert set(validated) == {"val/loss", "val/perplexity"}
    assert tested["test/loss"] == pytest.approx(validated["val/loss"])


def test_save_merged_loads_elsewhere_with_the_same_logits(llama_folder: Path, tmp_path: Path) -> None:
    task = built(llama_folder)
    for parameter in task.trainable_parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    batch = make_batch(2)
    adapted = task.probe_output(batch)
    assert task.adapter is not None
    merge(task.model, task.adapter)
    task.save_merged(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    again = CausalLMTask(str(tmp_path / "merged"))
    again.backbone = loaded
    torch.testing.assert_close(again.probe_output(batch), adapted, rtol=1e-5, atol=1e-5)
    assert again.tokenizer("abc")["input_ids"] == task.tokenizer("abc")["input_ids"]


def test_count_batch(llama_folder: Path) -> None:
    batch = make_batch(3)
    count = make_task(llama_folder).count_batch(batch)
    assert (count.samples, count.tokens, count.padded_tokens) == (3, int(batch["attention_mask"].sum()), 36)


def test_sequences_beyond_the_context(llama_folder: Path, gpt2: GPT2LMHeadModel) -> None:
    task = built(llama_folder)
    with pytest.warns(UserWarning, match="a sequence has 80 tokens and the base was built for 64; lower --data.max_le"):
        task.loss(make_batch(1, tokens=80))
    task.loss(make_batch(1, tokens=80))  # said once
    task.backbone = gpt2
    with pytest.raises(ValueError, match=r"a sequence of 40 tokens, .* does not fit the base's 32 positions and 47"):
        task.loss(make_batch(1, tokens=40))


def test_max_new_tokens_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        CausalLMTask("x", max_new_tokens=0)
