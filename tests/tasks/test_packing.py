"""Packed batches in the task: the same loss, honest counts, and a base that mixes samples up stops the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_run import save_llama
from tasks.tiny_task import make_task, trainer
from transformers import LlamaForCausalLM, OPTConfig, OPTForCausalLM

from wegeft_pl import AdapterConfig
from wegeft_pl.data import GSM8KDataModule
from wegeft_pl.distributed import EveryRankError
from wegeft_pl.tasks import CausalLMTask


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    folder = tmp_path / "problems"
    folder.mkdir()
    rows = [{"question": f"{'a' * (number % 5)} {number}", "answer": f"#### {number}"} for number in range(12)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def batches(problems: Path, task: CausalLMTask, packing: bool) -> list[dict[str, torch.Tensor]]:
    module = GSM8KDataModule(str(problems), task.tokenizer_name, batch_size=2, max_length=90, packing=packing)
    module.setup("fit")
    return list(module.train_dataloader())


def test_the_loss_of_packed_rows_is_that_of_padded_ones(llama_folder: Path, problems: Path) -> None:
    task = make_task(llama_folder)
    task.configure_model()
    totals = []
    for packing in (False, True):
        with torch.no_grad():
            found = [task.loss(batch) for batch in batches(problems, task, packing)]
        totals.append((sum(float(loss) for loss, _ in found), sum(int(count) for _, count in found)))
    assert totals[1][0] == pytest.approx(totals[0][0], rel=1e-5)
    assert totals[1][1] == totals[0][1]


def test_samples_and_tokens_are_counted_not_rows(llama_folder: Path, problems: Path) -> None:
    task = make_task(llama_folder)
    counts = [task.count_batch(batch) for batch in batches(problems, task, packing=True)]
    plain = [task.count_batch(batch) for batch in batches(problems, task, packing=False)]
    assert sum(count.samples for count in counts) == 12
    assert sum(int(count.tokens) for count in counts) == sum(int(count.tokens) for count in plain)  # type: ignore[arg-type]


def test_a_fit_with_packed_rows(llama_folder: Path, problems: Path, tmp_path: Path) -> None:
    task = make_task(llama_folder)
    module = GSM8KDataModule(str(problems), batch_size=2, max_length=90, packing=True)
    run = trainer(tmp_path, max_epochs=2, enable_checkpointing=False)
    run.fit(task, module)
    assert run.global_step == 2 * len(module.train_dataloader())


def test_a_base_whose_samples_see_each_other_stops_the_run(
    llama: LlamaForCausalLM, problems: Path, tmp_path: Path
) -> None:
    folder = save_llama(llama, tmp_path / "opt")
    config = OPTConfig(
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=47,
        word_embed_proj_dim=16,
        max_position_embeddings=128,
        init_std=0.3,
    )
    (folder / "model.safetensors").unlink()
    OPTForCausalLM(config).save_pretrained(folder)
    task = CausalLMTask(str(folder))
    task.use_adapter(AdapterConfig(["q_proj"], rank=2, alpha=4))
    module = GSM8KDataModule(str(problems), batch_size=2, max_length=90, packing=True)
    with pytest.raises(EveryRankError, match=r"in opt packed samples attend to each other"):
        trainer(tmp_path, max_steps=1, enable_checkpointing=False).fit(task, module)


def test_only_samples_must_fit_the_context(llama_folder: Path, problems: Path) -> None:
    task = make_task(llama_folder)
    task.configure_model()
    assert task.context == 64
    (batch, *_) = batches(problems, task, packing=True)
    assert batch["input_ids"].shape[1] > 64
    task.loss(batch)  # warnings are errors here
