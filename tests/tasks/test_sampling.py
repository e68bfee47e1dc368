from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tasks.tiny_task import make_task

from wegeft_pl.tasks.sampling import Sampling


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"temperature": 0.0}, r"temperature must be above 0, or null for greedy decoding, got 0\.0"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p must be above 0 and at most 1, got 0\.0"),
        ({"num_samples": 2}, r"num_samples=2 and top_p=1 need answers that are drawn; set model.temperature"),
        ({"top_p": 0.5}, r"num_samples=1 and top_p=0\.5 need answers that are drawn; set model.temperature"),
    ],
)
def test_refusals(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**fields)


def batch_of(folder: Path, ids: list[int]) -> dict[str, Any]:
    prompts = torch.tensor([[1, 5, 6], [1, 7, 8]])
    return {"prompt_ids": prompts, "prompt_mask": torch.ones_like(prompts), "id": ids}


def test_greedy_answers_are_the_first_samples(llama_folder: Path) -> None:
    task = make_task(llama_folder)
    task.configure_model()
    task.model.eval()
    batch = batch_of(llama_folder, [0, 1])
    # The small tokenizer puts a space between tokens, also between the prompt's last one and the answer's first.
    assert [[" " + text] for text in task.generate_answers(batch)] == task.generate_samples(batch)


def test_samples_are_drawn_by_seed_and_batch_and_leave_random_numbers_alone(llama_folder: Path) -> None:
    task = make_task(llama_folder, num_samples=3, temperature=2.0, top_p=0.9)
    task.configure_model()
    task.model.eval()
    assert {name: task.decoding[name] for name in ("do_sample", "temperature", "top_p", "num_return_sequences")} == {
        "do_sample": True, "temperature": 2.0, "top_p": 0.9, "num_return_sequences": 3,
    }  # fmt: skip
    json.dumps(task.decoding)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = task.generate_samples(batch_of(llama_folder, [0, 1]))
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(texts) for texts in first] == [3, 3]
    assert len(set(first[0])) > 1
    assert task.generate_samples(batch_of(llama_folder, [0, 1])) == first
    assert task.generate_samples(batch_of(llama_folder, [2, 3])) != first
    torch.manual_seed(2)
    assert task.generate_samples(batch_of(llama_folder, [0, 1])) != first


def test_the_spaces_that_an_answer_begins_with_are_kept(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(shared / "weights" / "stories260K")
    prompt, answer = "Once upon a time\n", "    there was"
    prompt_ids = task.tokenizer(prompt)["input_ids"]
    both = task.tokenizer(prompt + answer)["input_ids"]
    assert both[: len(prompt_ids)] == prompt_ids
    assert task.tokenizer.decode(both[len(prompt_ids) :]) == answer[1:]  # what this is about
    monkeypatch.setattr(task, "_generate", lambda batch: torch.tensor([both]))
    assert task.generate_samples({"prompt_ids": torch.tensor([prompt_ids])}) == [[answer]]
