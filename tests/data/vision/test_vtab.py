"""VTAB-1k: the tasks, their means, and the lists of each mode."""

from __future__ import annotations

from collections import Counter

import pytest

from wegeft_pl.data import VTAB_TASKS, VTAB1kDataModule, vtab_means


def test_nineteen_tasks_in_three_groups():
    assert Counter(task.group for task in VTAB_TASKS.values()) == {"natural": 7, "specialized": 4, "structured": 8}


def test_the_means_are_of_tasks():
    # The published scores of WeGeFT by group are means of 7, 4 and 8 tasks; their mean of 19 is that of tasks.
    by_group = {"natural": 81.95, "specialized": 86.30, "structured": 61.12}
    means = vtab_means({name: by_group[task.group] for name, task in VTAB_TASKS.items()})
    assert means == pytest.approx({**by_group, "mean": 74.09}, abs=0.01)


def test_a_mean_needs_all_of_its_tasks():
    scores = {name: float(number) for number, name in enumerate(VTAB_TASKS)}
    del scores["svhn"]
    assert set(vtab_means(scores)) == {"specialized", "structured"}
    with pytest.raises(ValueError, match="no VTAB-1k task is named 'cifar10'; they are cifar, caltech101"):
        vtab_means({"cifar10": 1.0})


@pytest.fixture
def task_folder(save, tmp_path):
    for number in range(10):
        save(f"kitti/images/{number}.png", number)
    lines = [f"images/{number}.png {number % 4}\n" for number in range(10)]
    lists = {"train800": lines[:4], "val200": lines[4:6], "train800val200": lines[:6], "test": lines[6:]}
    for name, chosen in lists.items():
        (tmp_path / "kitti" / f"{name}.txt").write_text("".join(chosen))
    return tmp_path / "kitti"


@pytest.mark.parametrize(
    ("mode", "rows"), [("search", {"train": 4, "val": 2}), ("final", {"train": 6, "test": 4})]
)  # fmt: skip
def test_modes(task_folder, fields, mode, rows):
    module = VTAB1kDataModule(str(task_folder), mode=mode, **fields)
    module.setup()
    about = module.describe()
    assert about["rows"] == rows
    assert (about["mode"], about["task"], about["group"], about["num_classes"]) == (mode, "kitti", "structured", 4)
    other = "test" if mode == "search" else "validate"
    with pytest.raises(ValueError, match="has none"):
        module.setup(other)


def test_a_task_by_name(task_folder, fields):
    module = VTAB1kDataModule(str(task_folder), task="dmlab", **fields)
    assert (module.num_classes, module.task) == (6, "dmlab")
    renamed = task_folder.rename(task_folder.parent / "mine")
    module = VTAB1kDataModule(str(renamed), **fields)
    module.setup("fit")
    assert (module.task, module.class_names) == (None, ["0", "1", "2", "3"])
    with pytest.raises(ValueError, match=r"data\.task 'kitty' is no VTAB-1k task; they are cifar"):
        VTAB1kDataModule(str(renamed), task="kitty", **fields)


def test_the_protocol_is_the_default(task_folder):
    module = VTAB1kDataModule(str(task_folder), normalization="half")
    assert module.protocol == (
        "224 x 224, resize exact bicubic, train_transform none, normalization half (mean 0.5, 0.5, 0.5; std 0.5, 0.5, "
        "0.5)"
    )
