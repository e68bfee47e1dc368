"""Several tasks in one module, end to end on a tiny Llama and split by split without one."""

import json
import sys
import types

import pytest
import torch
from small_run import make_task, make_trainer

from wegeft_pl.callbacks import SampleWriter
from wegeft_pl.data import ArithmeticDataModule, CommonsenseDataModule
from wegeft_pl.losses import IGNORED

CHOICES = {"boolq": ("true", "false"), "piqa": ("solution1", "solution2"), "openbookqa": ("answer1", "answer2")}


def row(question, answer):
    return {"instruction": question, "input": "", "output": f"the correct answer is {answer}", "answer": answer}


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


@pytest.fixture
def folder(tmp_path):
    """Three tasks of 8, 6 and 4 test rows; two of them have 6 training rows."""
    for task, number in (("boolq", 8), ("piqa", 6), ("openbookqa", 4)):
        rows = [row(f"{task} {'x' * (i % 3)}{i}", CHOICES[task][i % 2]) for i in range(number)]
        write(tmp_path / "dataset" / task / "test.json", rows)
    for task in ("boolq", "openbookqa"):
        rows = [row(f"train {task} {i}", CHOICES[task][i % 2]) for i in range(6)]
        write(tmp_path / "dataset" / task / "train.json", rows)
    return tmp_path


@pytest.fixture
def make(make_tokenizer, folder, monkeypatch):
    def make(cls=CommonsenseDataModule, **fields):
        module = cls(**{"path": str(folder), "batch_size": 4, **fields})
        tokenizer = make_tokenizer("llama")
        monkeypatch.setattr(module, "resolve_tokenizer", lambda: tokenizer)
        return module

    return make


def scored(loader):
    names = ("id", "task", "prompt", "reference")
    return {one[0]: one[1:] for batch in loader for one in zip(*(batch[name] for name in names), strict=True)}


def test_every_row_keeps_its_task(make, capsys):
    module = make()
    module.setup()
    assert capsys.readouterr().out == (
        "test/mean is over 3 of 8 tasks, without social_i_qa, hellaswag, winogrande, ARC-Easy, ARC-Challenge\n"
    )
    rows = scored(module.test_dataloader())
    assert len(rows) == 18
    assert any(len(set(batch["task"])) > 1 for batch in module.test_dataloader())
    for task, prompt, reference in rows.values():
        assert prompt.startswith(f"{task} ")
        assert prompt.endswith("\n")
        number = int(prompt.split()[1].strip("x\n"))
        assert reference == CHOICES[task][number % 2]
    assert list(module.answer_extractors) == ["boolq", "piqa", "openbookqa"]
    described = module.describe()
    assert described["rows"] == {"train": 12, "test": 18}
    assert described["tasks"] == {
        "train": {"boolq": 6, "openbookqa": 6}, "val": {}, "test": {"boolq": 8, "piqa": 6, "openbookqa": 4},
    }  # fmt: skip
    assert described["not_scored"]["test"] == ["social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge"]
    json.dumps(described)


def test_the_smallest_ids_are_of_every_task(make):
    module = make()
    module.setup("test")
    rows = scored(module.test_dataloader())
    assert [rows[number][0] for number in sorted(rows)[:6]] == ["boolq", "piqa", "openbookqa"] * 2
    chosen = make(tasks=["piqa"])
    chosen.setup("test")
    own = scored(chosen.test_dataloader())
    assert own == {number: found for number, found in rows.items() if found[0] == "piqa"}  # ids stay
    assert list(chosen.answer_extractors) == ["piqa"]


def test_limits_are_of_each_task(make):
    module = make(limit_train=2, limit_test=3, limit_val=1, val_size=4)
    module.setup()
    tasks = module.describe()["tasks"]
    assert tasks["train"] == {"boolq": 2, "openbookqa": 2}
    assert tasks["test"] == {"boolq": 3, "piqa": 3, "openbookqa": 3}
    assert set(tasks["val"].values()) == {1}


def test_training_rows_are_the_chosen_tasks_or_one_file(make, folder):
    one = make(train_tasks=["openbookqa"])
    one.setup("fit")
    assert one.describe()["tasks"]["train"] == {"openbookqa": 6}
    file = write(folder / "my.mix.json", [row(f"mixed {i}", "true") for i in range(9)])
    mix = make(train_path=str(file), val_size=3)
    mix.setup()
    assert mix.describe()["tasks"]["train"] == {"my_mix": 6}
    assert {task for task, *_ in scored(mix.val_dataloader()).values()} == {"my_mix"}
    assert next(iter(mix.answer_extractors)) == "my_mix"
    write(folder / "ft-training_set" / "commonsense_170k.json", [row(f"all {i}", "ending2") for i in range(5)])
    found = make()
    found.setup("fit")
    assert found.describe()["tasks"]["train"] == {"commonsense_170k": 5}
    chosen = make(train_tasks=["boolq"])
    chosen.setup("fit")
    assert chosen.describe()["tasks"]["train"] == {"boolq": 6}


def test_batches_of_training_are_shuffled_over_tasks(make):
    module = make(batch_size=6, seed=1)
    module.setup("fit")
    lengths = [[int(mask.sum()) for mask in batch["attention_mask"]] for batch in module.train_dataloader()]
    assert all(len(set(batch)) > 1 for batch in lengths)  # the two tasks' rows differ in length


def test_rows_in_training_and_test_are_counted(make, folder):
    rows = json.loads((folder / "dataset/boolq/test.json").read_text())
    rows = rows[:5] + [row("new", "true")] + json.loads((folder / "dataset/piqa/test.json").read_text())[:1]
    file = write(folder / "mix.json", rows)
    module = make(train_path=str(file))
    with pytest.warns(
        UserWarning, match=r"^6 of 18 test rows have a question that is trained on \(boolq 5 of 8, piqa 1 of"
    ):
        module.setup()


def test_wrong_worked_answers_are_scored_and_add_no_loss(make, folder, capsys):
    rows = [
        {"instruction": "one", "input": "", "output": "1 + 1 = 2. The answer is 2.", "answer": "2.0"},
        {"instruction": "two", "input": "", "output": "The answer is 5.", "answer": "4"},
        {"instruction": "three", "input": "", "output": "", "answer": "3"},
    ]
    write(folder / "dataset/SVAMP/test.json", rows)
    write(folder / "dataset/SVAMP/train.json", [r | {"instruction": f"train {r['instruction']}"} for r in rows])
    module = make(ArithmeticDataModule)
    module.setup()
    (batch,) = module.test_dataloader()
    labelled = {prompt.split("\n")[3]: bool((labels != IGNORED).any()) for prompt, labels in zip(
        batch["prompt"], batch["labels"], strict=True)}  # fmt: skip
    assert labelled == {"one": True, "two": False, "three": False}
    assert module.describe()["wrong_outputs"] == {"train": 2, "val": 0, "test": 2}
    assert module.describe()["rows"] == {"train": 3, "test": 3}
    out = capsys.readouterr().out
    assert "train: 2 of 3 outputs do not lead to their answer; they are trained on\n" in out
    assert "test: 2 of 3 outputs do not lead to their answer; they are scored, and the loss leaves them out\n" in out


def test_a_test_set_without_any_right_worked_answer_is_scored(make, folder):
    write(folder / "dataset/mawps/test.json", [{"instruction": "one", "input": "", "output": "", "answer": "2"}])
    module = make(ArithmeticDataModule, tasks=["mawps"])
    module.setup("test")
    assert module.describe()["unlabelled"] == {"test": 1}


def test_without_training_rows_it_can_still_be_tested(make, folder):
    module = make(path=str(folder / "dataset/piqa"))
    module.setup("test")
    assert module.describe()["tasks"]["test"] == {"piqa": 6}
    with pytest.raises(
        ValueError, match=r"fit needs train rows, and .* has none; add TASK/train.json files, or give data"
    ):
        module.setup("fit")
    with pytest.raises(
        ValueError, match=r"validate needs val rows.*add TASK/val.json files, or hold rows out of train"
    ):
        module.setup("validate")


def test_rows_held_out_are_scored_by_task(make, folder):
    module = make(path=str(folder / "dataset/boolq/train.json"), test_size=2, val_size=1)
    module.setup()
    assert module.describe()["tasks"] == {"train": {"boolq": 3}, "val": {"boolq": 1}, "test": {"boolq": 2}}


def test_options_that_exclude_each_other(make):
    with pytest.raises(ValueError, match=r"data.train_path and data.train_tasks both say what is trained on; give one"):
        make(train_path="a.json", train_tasks=["boolq"])
    with pytest.raises(ValueError, match=r"data.train_tasks: no task 'bolq'"):
        make(train_tasks=["bolq"])
    with pytest.raises(ValueError, match=r"data.limit_test must be at least 1, got 0"):
        make(limit_test=0)
    with pytest.raises(ValueError, match=r"data.tasks: .* has no test rows of hellaswag; it has those of boolq, piqa"):
        make(tasks=["hellaswag"]).setup("test")


def test_a_faulty_row_is_named(make, folder):
    file = write(folder / "dataset/boolq/test.json", [row("a", "true"), row("b", "maybe")])
    with pytest.raises(ValueError, match=rf"{file}: row 2: the gold answer must name a choice.*got 'maybe'"):
        make().setup("test")


def test_the_hub_gives_each_task_its_own_data_set(make, monkeypatch):
    def load_dataset(repository, config, split, revision=None):
        assert repository in ("google/boolq", "allenai/openbookqa"), repository
        if repository == "google/boolq":
            return [{"question": f"{split} {i}", "answer": i % 2 == 0, "passage": ""} for i in range(3)]
        choices = {"text": ["a", "b"], "label": ["A", "B"]}
        return [{"question_stem": f"{split} {i}", "choices": choices, "answerKey": "B"} for i in range(2)]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    data = make(path=None, tasks=["boolq", "openbookqa"], train_tasks=["boolq"])
    data.prepare_data()
    data.setup()
    described = data.describe()
    assert described["tasks"] == {"train": {"boolq": 3}, "val": {}, "test": {"boolq": 3, "openbookqa": 2}}
    assert described["path"] == "hub"
    assert list(described["sha256"]) == ["boolq/train", "boolq/test", "openbookqa/test"]
    first = scored(data.test_dataloader())[0]
    assert first == (
        "boolq",
        "Please answer the following question with true or false, question: validation 0?\n\n"
        "Answer format: true/false\n",
        "true",
    )


def test_other_test_rows_do_not_make_it_other_training_data(make):
    from wegeft_pl.data.place import training_data

    whole, part = make(), make(tasks=["piqa"], limit_test=2)
    for module in (whole, part):
        module.setup()
    assert training_data(whole.describe()) == training_data(part.describe())
    less = make(limit_train=3)
    less.setup()
    assert training_data(less.describe()) != training_data(whole.describe())


def test_a_run_trains_on_the_mix_and_scores_each_task(folder, llama_folder, tmp_path):
    """One step of training, then a test over three tasks: scores, their mean, and predictions that know their task."""
    data = CommonsenseDataModule(path=str(folder), batch_size=4, eval_batch_size=5, limit_train=2, cache_dir=None)
    answers = {
        "boolq": "the correct answer is true",
        "piqa": "the correct answer is solution2",
        "openbookqa": "answer1",
    }
    task = make_task(llama_folder, max_new_tokens=2)
    trainer = make_trainer(tmp_path, SampleWriter())
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 1
    task.generate_answers = lambda batch: [answers[name] for name in batch["task"]]
    (scores,) = trainer.test(task, datamodule=data, verbose=False)
    # By hand: half of boolq is true, half of piqa is solution2, and an answer without its marker is none.
    assert scores["test/boolq"] == 0.5
    assert scores["test/piqa"] == 0.5
    assert scores["test/openbookqa"] == 0.0
    assert scores["test/mean"] == pytest.approx(1 / 3)
    assert torch.isfinite(torch.tensor(scores["test/loss"]))
    (file,) = (tmp_path / "predictions").glob("test*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 18
    assert {line["task"] for line in lines} == set(answers)
    for line in lines:
        assert line["prompt"].startswith(line["task"])
        assert set(line["correct"]) == {line["task"]}
        assert line["correct"][line["task"]] == (line["output"].endswith(line["reference"]) and "the" in line["output"])


def test_generated_answers_reach_the_scores(folder, llama_folder, tmp_path):
    """The same with what the model itself generates: an untrained one names no choice."""
    data = CommonsenseDataModule(path=str(folder), batch_size=4, limit_test=2, cache_dir=None)
    (scores,) = make_trainer(tmp_path).test(make_task(llama_folder), datamodule=data, verbose=False)
    assert [scores[f"test/{name}"] for name in ("mean", "boolq", "piqa", "openbookqa")] == [0.0] * 4


def test_a_run_goes_on_where_it_stopped(make):
    """The rest of an epoch over several tasks is the same batches, and other data is refused."""
    module = make(batch_size=2)
    module.setup("fit")
    batches = iter(module.train_dataloader())
    whole = [next(batches) for _ in range(3)]
    state = module.state_dict()
    rest = [batch["input_ids"] for batch in batches]
    assert len(whole) + len(rest) == 6
    again = make(batch_size=2, tasks=["piqa"])
    again.setup("fit")
    again.load_state_dict(state)
    assert all(torch.equal(a["input_ids"], b) for a, b in zip(again.train_dataloader(), rest, strict=True))
    other = make(batch_size=2, train_tasks=["boolq"])
    other.setup("fit")
    with pytest.raises(ValueError, match="this checkpoint was trained on other data"):
        other.load_state_dict(state)


def test_packed_rows_hold_samples_of_several_tasks(make):
    module = make(packing=True, max_length=128, batch_size=1)
    module.setup("fit")
    batches = list(module.train_dataloader())
    assert len(batches) < 12
    plain = make()
    plain.setup("fit")
    assert module.describe()["labelled_tokens"] == plain.describe()["labelled_tokens"]
