"""The code data module: what is trained on, what is asked, and that nothing runs unasked."""

import json

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from wegeft_pl.data import CodeDataModule
from wegeft_pl.data.place import training_data
from wegeft_pl.data.text.encode_split import Encoding
from wegeft_pl.losses import IGNORED
from wegeft_pl.sandbox import Limits

PROBLEMS = [
    {
        "task_id": f"HumanEval/{n}",
        "prompt": f"def add{n}(x):\n",
        "entry_point": f"add{n}",
        "canonical_solution": f"    return x + {n}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {n + 1}\n",
    }
    for n in range(3)
]


@pytest.fixture
def make(make_tokenizer, write_rows, tmp_path, monkeypatch):
    """Makes a data module on six instructions and three tasks."""
    write_rows("data/train.jsonl", [{"instruction": f"Add {n}", "output": f"x + {n}"} for n in range(6)])
    write_rows("benchmark.jsonl", PROBLEMS)

    def make(kind="gpt2", **fields):
        paths = {"path": str(tmp_path / "data"), "benchmark_path": str(tmp_path / "benchmark.jsonl")}
        module = CodeDataModule(**{**paths, "batch_size": 2, **fields})
        tokenizer = make_tokenizer(kind)
        monkeypatch.setattr(module, "resolve_tokenizer", lambda: tokenizer)
        return module

    return make


def test_trains_on_instructions_and_asks_the_benchmark(make):
    module = make(val_size=2)
    module.setup()
    assert module.describe()["rows"] == {"train": 4, "val": 2, "test": 3}
    assert "task" not in next(iter(module.val_dataloader()))
    batches = list(module.test_dataloader())
    assert [task for batch in batches for task in batch["task"]] == ["humaneval"] * 3
    first = batches[0]
    assert first["prompt"][0] == PROBLEMS[first["id"][0]]["prompt"]
    assert first["reference"][0] == PROBLEMS[first["id"][0]]["task_id"]
    tokenizer = module.resolve_tokenizer()
    answer = first["input_ids"][0][first["labels"][0] != IGNORED]
    assert tokenizer.decode(answer, skip_special_tokens=True) == PROBLEMS[first["id"][0]]["canonical_solution"]
    json.dumps(module.describe())


def test_instructions_are_tokenised_as_their_own_module_does(make, tmp_path):
    module = make(num_proc=2, cache_dir=str(tmp_path / "cache"))
    assert module.encoding == Encoding(num_proc=2, cache_dir=str(tmp_path / "cache"))


def test_the_benchmark_is_no_part_of_the_training_data(make):
    module, other = make(), make(limit_test=1, style="chat", run_generated_code=True)
    module.setup("fit")
    next(iter(module.train_dataloader()))
    state = module.state_dict()
    other.setup()
    other.load_state_dict(state)
    assert state["data"] == training_data(other.describe())


def test_in_chat_style_it_asks(make):
    module = make(style="chat", prompt="alpaca", limit_test=2)
    module.setup("test")
    batch = next(iter(module.test_dataloader()))
    assert len(batch["id"]) == 2
    assert "Complete the following Python function.\n\n```python\ndef add" in batch["prompt"][0]
    assert batch["prompt"][0].endswith("### Response:\n")


def test_nothing_runs_unasked(make, monkeypatch):
    said = []
    monkeypatch.setattr("wegeft_pl.data.text.code.rank_zero_info", said.append)
    module = make()
    module.setup("test")
    module.setup()
    assert [line for line in said if "set --data.run_generated_code true" in line] == said
    assert len(said) == 1
    assert module.make_programs(1, ["    return 5\n"]) == ["def add1(x):\n    return 5\n"]
    with pytest.raises(ValueError, match=r"generated code runs only on request; set data.run_generated_code to true"):
        module.judge([(0, "")])


def test_programs_are_judged(make):
    module = make(run_generated_code=True, limits=Limits(wall_seconds=30), num_judges=2)
    module.setup("test")
    right, wrong = module.make_programs(2, ["    return x + 2\n", "    return x\n"])
    assert module.judge([(2, right), (2, wrong)]) == [(True, "passed"), (False, "failed: an assertion failed")]
    assert module.describe()["benchmark"]["test"]["limits"]["wall_seconds"] == 30


def test_refusals(make):
    with pytest.raises(ValueError, match=r"data.num_shots must be from 0 to 3, got 4"):
        make(num_shots=4)
    with pytest.raises(ValueError, match=r"data.num_judges must be at least 1, got 0"):
        make(num_judges=0)


def test_the_hub(make, monkeypatch):
    asked = []

    def load(*names):
        asked.append(names)
        return PROBLEMS

    monkeypatch.setattr("wegeft_pl.data.text.code.load_hub_split", load)
    assert len(make(benchmark_path=None).problems) == 3
    assert asked == [("openai/openai_humaneval", None, "test")]


def test_a_test_fetches_no_instruction_data(make, monkeypatch):
    asked = []
    monkeypatch.setattr("wegeft_pl.data.text.code.load_hub_split", lambda *names: asked.append(names[0]) or PROBLEMS)
    monkeypatch.setattr("wegeft_pl.data.text.instruct.load_hub_split", lambda *names: asked.append(names[0]) or [])
    module = make(path=None, benchmark_path=None)
    module.trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    module.trainer.state.fn = TrainerFn.TESTING
    module.prepare_data()
    assert asked == ["openai/openai_humaneval"]
    module.trainer.state.fn = TrainerFn.FITTING
    with pytest.raises(ValueError, match="leave no training row of 0"):
        module.prepare_data()
    assert asked[1:] == ["sahil2801/CodeAlpaca-20k"]
