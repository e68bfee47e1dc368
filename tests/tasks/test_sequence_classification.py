"""Sequence classification: encoders and decoders, padding, regression, merged folders, the exact LoRA."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from tasks.tiny_images import loader, make_trainer
from torch import nn
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from wegeft_pl import AdapterConfig, merge
from wegeft_pl.accounting import estimate_memory
from wegeft_pl.callbacks import AdapterMerge, BeforeAfter, RunReport, WeGeFTInjector
from wegeft_pl.tasks import SequenceClassificationTask

NAMES = ["bad", "good"]


def make_texts(rows: int, first: int = 0, regression: bool = False) -> dict[str, torch.Tensor]:
    """Rows whose label says whether their second token is large; the last rows are padded with 0."""
    generator = torch.Generator().manual_seed(first)
    ids = torch.randint(4, 47, (rows, 8), generator=generator)
    mask = torch.ones_like(ids)
    ids[-1, 5:], mask[-1, 5:] = 0, 0
    labels = (ids[:, 1] > 25).long()
    if regression:
        labels = ids[:, 1] / 10
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "indices": torch.arange(first, first + rows)}


class Texts(LightningDataModule):
    """Two batches of training and of scores."""

    def __init__(self, class_names: list[str], batches: int = 2) -> None:
        super().__init__()
        self.class_names = class_names
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        return loader([make_texts(8, 8 * n, not self.class_names) for n in range(self.batches)])

    val_dataloader = train_dataloader
    test_dataloader = train_dataloader


@pytest.fixture
def roberta_folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A RoBERTa without a classifier, as a pretrained one is."""
    config = RobertaConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                           vocab_size=47, max_position_embeddings=20, pad_token_id=0)  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "roberta")
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained(tmp_path / "roberta")
    return tmp_path / "roberta"


def make_task(folder: Path, **fields: Any) -> SequenceClassificationTask:
    settings: dict[str, Any] = {"optimizer": partial(AdamW, lr=1e-2)}
    return SequenceClassificationTask(str(folder), **(settings | fields))


def built(folder: Path, targets: list[str], **fields: Any) -> SequenceClassificationTask:
    task = make_task(folder, **fields)
    task.use_adapter(AdapterConfig(targets, rank=4, zero="psi"))
    task.configure_model()
    return task


def test_a_run_of_an_encoder(roberta_folder: Path, tmp_path: Path) -> None:
    task = make_task(roberta_folder)
    injector = WeGeFTInjector(targets=["query", "value"], rank=4)
    callbacks = [injector, BeforeAfter(), AdapterMerge(), RunReport()]
    make_trainer(tmp_path, *callbacks, adapter=False, max_epochs=20).fit(task, datamodule=Texts(NAMES))
    metrics = json.loads((tmp_path / "run.json").read_text())["metrics"]
    assert set(metrics["after"]) == {"accuracy", "class_accuracy", "f1", "matthews", "loss"}
    assert metrics["after"]["loss"] < metrics["before"]["loss"]
    assert task.adapter is not None
    assert task.adapter.trained.modules == ["classifier"]
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == dict(enumerate(NAMES))
    batch = make_texts(4)
    logits = merged(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(logits, task.probe_output(batch), rtol=1e-4, atol=1e-5)
    row = json.loads((tmp_path / "predictions/after.jsonl").read_text().splitlines()[7])
    ids = make_texts(8)["input_ids"][7, :5]
    assert row["prompt"] == AutoTokenizer.from_pretrained(tmp_path / "merged").decode(ids, skip_special_tokens=True)


def test_a_decoder_classifies_by_its_last_token_that_is_not_padding(llama_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(llama_folder)
    assert AutoTokenizer.from_pretrained(llama_folder).pad_token_id is None
    task = built(llama_folder, ["q_proj"], num_classes=3)
    assert task.adapter is not None
    assert task.adapter.trained.modules == ["score"]
    assert task.tokenizer.pad_token_id == task.tokenizer.eos_token_id == 2
    assert task.model.config.pad_token_id == 2
    batch = make_texts(3)
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 2)
    found = task.probe_output(batch)
    for row in range(3):
        kept = batch["attention_mask"][row].bool()
        alone = {"input_ids": batch["input_ids"][row : row + 1, kept], "attention_mask": kept[kept][None].long()}
        states = task.model.model(input_ids=alone["input_ids"]).last_hidden_state[0, -1]
        torch.testing.assert_close(found[row], task.model.score(states), rtol=1e-4, atol=1e-5)
    assert "pad_token_id" in json.loads((llama_folder / "config.json").read_text())


def test_regression(roberta_folder: Path, tmp_path: Path) -> None:
    task = make_task(roberta_folder)
    injector = WeGeFTInjector(targets=["query"], rank=4)
    run = make_trainer(tmp_path, injector, adapter=False, max_epochs=30)
    data = Texts([])
    run.fit(task, datamodule=data)
    assert task.num_classes == 1
    (scores,) = run.test(task, datamodule=data, verbose=False)
    assert set(scores) == {"test/pearson", "test/spearman", "test/loss"}
    batches = [make_texts(8, 8 * n, regression=True) for n in range(2)]
    values = torch.cat([task.probe_output(batch)[:, 0] for batch in batches])
    labels = torch.cat([batch["labels"] for batch in batches])
    assert scores["test/loss"] == pytest.approx((values - labels).square().mean().item(), rel=1e-4)
    assert scores["test/pearson"] == pytest.approx(torch.corrcoef(torch.stack([values, labels]))[0, 1].item(), abs=1e-4)
    assert task.model.config.problem_type == "regression"
    assert task.confusion is None
    blank = {**batches[0], "labels": torch.full((8,), float("nan")), "indices": torch.full((8,), -1)}
    evaluation = task.new_evaluation()
    assert evaluation.update(blank) == []
    assert evaluation.compute() == {}
    task.training_loss(blank).backward()
    assert all(torch.isfinite(p.grad).all() for p in task.trainable_parameters() if p.grad is not None)


def test_the_exact_lora_with_its_head_is_what_peft_loads(roberta_folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    task = built(roberta_folder, ["query", "value"], class_names=NAMES)
    for parameter in task.trainable_parameters():
        nn.init.normal_(parameter, std=0.3)
    assert task.adapter is not None
    task.adapter.export_lora(tmp_path / "lora", task_type="SEQ_CLS")
    config = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["classifier"])
    base = AutoModelForSequenceClassification.from_pretrained(roberta_folder, num_labels=2)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    batch = make_texts(4)
    logits = loaded(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(logits, task.probe_output(batch), rtol=1e-4, atol=1e-4)


def test_a_bfloat16_base_keeps_its_head_in_float32(roberta_folder: Path, tmp_path: Path) -> None:
    task = built(roberta_folder, ["query"], num_classes=2, dtype="bfloat16")
    assert task.model.get_submodule("classifier.dense").weight.dtype == torch.float32
    assert task.model.get_submodule("roberta.embeddings.word_embeddings").weight.dtype == torch.bfloat16
    task.training_loss(make_texts(4)).backward()
    probe = make_task(roberta_folder, dtype="bfloat16")
    make_trainer(tmp_path, adapter=False, max_steps=1, precision="bf16-mixed").fit(probe, datamodule=Texts(NAMES))
    assert probe.model.get_submodule("classifier.dense").weight.dtype == torch.float32
    assert {name for name, p in probe.model.named_parameters() if p.requires_grad} == {
        f"classifier.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")
    }


def test_a_classifier_of_another_size_starts_anew_and_one_of_the_same_is_kept(
    roberta_folder: Path, tmp_path: Path
) -> None:
    task = built(roberta_folder, ["query"], class_names=["a", "b", "c"])
    assert task.adapter is not None
    nn.init.normal_(task.model.get_submodule("classifier.out_proj").weight)
    merge(task.model, task.adapter)
    task.save_merged(tmp_path / "merged")
    same = built(tmp_path / "merged", ["query"], num_classes=3)
    torch.testing.assert_close(
        same.model.get_submodule("classifier.out_proj").weight, task.model.get_submodule("classifier.out_proj").weight
    )
    other = built(tmp_path / "merged", ["query"], num_classes=5, head_init="zero")
    assert other.model.get_submodule("classifier.out_proj").weight.shape == (5, 16)
    assert not other.probe_output(make_texts(2)).any()
    assert other.model.get_submodule("classifier.dense").weight.any()


def test_layer_decay_counts_blocks(roberta_folder: Path) -> None:
    task = built(roberta_folder, ["query"], num_classes=2)
    depths = task.depths_of(task.model)
    assert depths["roberta.encoder.layer.0.attention.self.key.weight"] == 2
    assert depths["roberta.encoder.layer.1.output.dense.bias"] == 1
    assert "classifier.dense.weight" not in depths


def test_what_plan_asks(roberta_folder: Path) -> None:
    task = make_task(roberta_folder, num_classes=2)
    task.backbone = task.build_backbone(meta=True)
    batch = task.example_batch(2, 6)
    assert estimate_memory(task, task.optimizer, lambda: task.training_loss(batch)).activations
    assert task.count_batch(batch).padded_tokens == 12


def test_problems(roberta_folder: Path, tmp_path: Path) -> None:
    task = built(roberta_folder, ["query"], num_classes=2)
    long = {"input_ids": torch.ones(1, 40, dtype=torch.int64), "attention_mask": torch.ones(1, 40, dtype=torch.int64)}
    with pytest.raises(ValueError, match="a text of 40 tokens, the largest id 1, does not fit the base's positions"):
        task.logits(long)
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=47)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")  # has no pooler, which BERT classifies by
    AutoTokenizer.from_pretrained(roberta_folder).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"do not give bert.pooler.dense.bias \(2 tensors besides the classifier\)"):
        make_task(tmp_path / "bert", num_classes=2).configure_model()
    BertModel(config).save_pretrained(tmp_path / "bert")
    make_task(tmp_path / "bert", num_classes=2).configure_model()
    tokenizer = AutoTokenizer.from_pretrained(roberta_folder)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="has neither a pad nor an end token; give one that has, or save it"):
        make_task(tmp_path / "bert", num_classes=2).configure_model()
