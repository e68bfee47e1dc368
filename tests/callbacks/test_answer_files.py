from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small_run import SmallData, make_task, make_trainer

from wegeft_pl.callbacks import AlpacaEvalAnswers, MTBenchAnswers
from wegeft_pl.callbacks.answer_files import FormatsPrompts


class Chat(SmallData):
    """Formats prompts, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[tuple[str, ...], tuple[str, ...]]] = []

    def format_prompt(self, questions: Sequence[str], answers: Sequence[str]) -> tuple[str, list[int]]:
        self.asked.append((tuple(questions), tuple(answers)))
        text = questions[0] + "".join(f" {a} {q}" for a, q in zip(answers, questions[1:], strict=True))
        assert self.trainer is not None
        return text, self.trainer.lightning_module.tokenizer(text)["input_ids"]  # type: ignore[operator]

    def cut_answer(self, text: str) -> str:
        return text.strip()[:3]


@pytest.fixture
def alpaca(tmp_path: Path) -> str:
    path = tmp_path / "alpaca_eval.json"
    path.write_text(json.dumps([{"instruction": f"say {n}", "dataset": "d", "output": "gold"} for n in range(3)]))
    return str(path)


@pytest.fixture
def mt_bench(tmp_path: Path) -> str:
    path = tmp_path / "question.jsonl"
    rows = [{"question_id": 81, "category": "w", "turns": ["one", "two"]}, {"question_id": 82, "turns": ["alone"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_alpaca_eval_reads_what_is_written(folder: Path, root: Path, alpaca: str) -> None:
    callback, data = AlpacaEvalAnswers(alpaca, batch_size=2), Chat()
    assert isinstance(data, FormatsPrompts)
    make_trainer(root, callback, max_steps=1).fit(make_task(folder), datamodule=data)
    written = json.loads((root / "alpaca_eval.json").read_text())
    assert [(row["instruction"], row["dataset"], row["generator"]) for row in written] == [
        (f"say {n}", "d", "run") for n in range(3)
    ]
    assert all(set(row) == {"dataset", "instruction", "output", "generator"} for row in written)
    assert callback.report() == {"paths": {"alpaca_eval": str(root / "alpaca_eval.json")}}
    kept = [json.loads(line) for line in (root / "predictions" / "alpaca_eval.jsonl").read_text().splitlines()]
    assert [row["output"] for row in kept] == [row["output"] for row in written]


def test_mt_bench_asks_the_second_question_with_the_first_answer(folder: Path, root: Path, mt_bench: str) -> None:
    callback, data = MTBenchAnswers(mt_bench, generator="mine"), Chat()
    make_trainer(root, callback).test(make_task(folder), datamodule=data, verbose=False)
    lines = [json.loads(line) for line in (root / "mt_bench" / "mine.jsonl").read_text().splitlines()]
    assert [(line["question_id"], line["model_id"]) for line in lines] == [(81, "mine"), (82, "mine")]
    first, second = lines[0]["choices"][0]["turns"]
    assert lines[0]["choices"][0]["index"] == 0
    assert len(lines[1]["choices"][0]["turns"]) == 1
    assert (("one",), ()) in data.asked
    assert (("one", "two"), (first,)) in data.asked
    assert isinstance(second, str)
    assert len({line["answer_id"] for line in lines}) == 2
    assert all(line["tstamp"] > 1e9 for line in lines)


def test_limits_and_trials(folder: Path, root: Path, alpaca: str) -> None:
    callback = AlpacaEvalAnswers(alpaca, generator="g", limit=1)
    make_trainer(root, callback, fast_dev_run=True).fit(make_task(folder), datamodule=Chat())
    assert not (root / "alpaca_eval.json").exists()
    assert callback.report() == {}
    assert len(callback.questions) == 1


def test_refusals(folder: Path, root: Path, tmp_path: Path, alpaca: str) -> None:
    with pytest.raises(ValueError, match="AlpacaEvalAnswers: batch_size must be at least 1, got 0"):
        AlpacaEvalAnswers(alpaca, batch_size=0)
    with pytest.raises(
        FileNotFoundError, match=r"no file of questions .*nowhere.json; give AlpacaEval's or MT-Bench's own"
    ):
        AlpacaEvalAnswers(str(tmp_path / "nowhere.json"))
    with pytest.raises(
        ValueError, match=r"AlpacaEvalAnswers needs a data module that formats prompts, such as .* got Small"
    ):
        make_trainer(root, AlpacaEvalAnswers(alpaca)).fit(make_task(folder), datamodule=SmallData())


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (AlpacaEvalAnswers, '[{"question": "a"}]', r"row 1: column 'instruction' must hold a string, got None"),
        (AlpacaEvalAnswers, "[1]", r"row 1: a question must be a JSON object, got 1"),
        (AlpacaEvalAnswers, "[", r"q.json: not valid JSON"),
        (AlpacaEvalAnswers, "[]", r"q.json: no questions"),
        (MTBenchAnswers, '[{"turns": "a"}]', r"row 1: column 'turns' must hold an array of strings, got 'a'"),
        (MTBenchAnswers, '[{"turns": ["a"]}]', r"row 1: no column 'question_id'; this row has: turns"),
    ],
)
def test_faulty_files(kind: Any, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        kind(str(path))


def test_another_task_is_refused(alpaca: str, root: Path) -> None:
    from lightning.pytorch.demos.boring_classes import BoringModel

    with pytest.raises(ValueError, match="AlpacaEvalAnswers needs a CausalLMTask, got BoringModel"):
        AlpacaEvalAnswers(alpaca).setup(make_trainer(root), BoringModel(), "fit")
