"""Folders and files of several tasks."""

import json

import pytest

from wegeft_pl.data.text.task_files import find_task_files, train_file

SUITE = ("AQuA", "gsm8k", "mawps", "SVAMP", "MATH")
ROW = {"instruction": "1 + 1?", "input": "", "output": "2", "answer": "2"}


@pytest.fixture
def write(tmp_path):
    def write(name, row=ROW):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(row) + "\n" if name.endswith("jsonl") else json.dumps([row]), encoding="utf-8")
        return file

    return write


def find(path):
    return find_task_files(str(path), SUITE, "math_10k")


def test_a_checkout(write, tmp_path):
    train, test = write("dataset/AQuA/train.json"), write("dataset/AQuA/test.json")
    other, mix = write("dataset/SVAMP/test.jsonl"), write("ft-training_set/math_10k.json")
    write("dataset/boolq/test.json")
    found = find(tmp_path)
    assert found.splits == {"AQuA": {"train": train, "test": test}, "SVAMP": {"test": other}}
    assert found.mix == mix
    assert find(tmp_path / "dataset").mix is None


def test_a_dataset_folder_with_the_mix_in_it(write, tmp_path):
    mix, test = write("math_10k.jsonl"), write("mawps/test.json")
    found = find(tmp_path)
    assert (found.mix, found.splits) == (mix, {"mawps": {"test": test}})


def test_a_folder_of_test_files(write, tmp_path):
    file = write("held/SVAMP.json")
    write("held/README.json")
    assert find(tmp_path / "held").splits == {"SVAMP": {"test": file}}


def test_one_task_s_folder_is_known_by_its_name_or_its_format(write, tmp_path):
    named = write("math/math500_test.jsonl")
    assert find(tmp_path / "math").splits == {"MATH": {"test": named}}
    train, test = write("data/train.jsonl", {"question": "q", "answer": "#### 1"}), write("data/test.jsonl")
    assert find(tmp_path / "data").splits == {"gsm8k": {"train": train, "test": test}}
    write("other/test.json")
    with pytest.raises(
        ValueError, match=r"other.test.json does not say which task it is of; put it into a folder named"
    ):
        find(tmp_path / "other")


def test_one_file(write, tmp_path):
    svamp, mix = write("SVAMP.json"), write("my.mix.json")
    assert find(svamp).splits == {"SVAMP": {"train": svamp}}
    assert (find(mix).splits, find(mix).mix) == ({}, mix)
    test = write("MATH/math500_test.jsonl")
    assert find(test).splits == {"MATH": {"test": test}}


def test_a_training_file_names_its_task(write, tmp_path):
    assert train_file(str(write("my.mix.json")), SUITE)[0] == "my_mix"
    assert train_file(str(write("svamp/train.json")), SUITE)[0] == "SVAMP"
    assert train_file(str(write("x/train.json")), SUITE)[0] == "x"
    assert train_file(str(write("y/train.json", {"question": "q", "answer": "#### 1"})), SUITE)[0] == "gsm8k"
    with pytest.raises(
        FileNotFoundError, match=r"data.train_path: no file or folder .*my.mixx.json; did you mean 'my.mix"
    ):
        train_file(str(tmp_path / "my.mixx.json"), SUITE)


def test_faults(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data.path: no file or folder"):
        find(tmp_path / "nowhere")
    write("dataset/AQuA/test.json")
    write("dataset/AQuA/test.jsonl")
    with pytest.raises(ValueError, match=r"AQuA has both test.jsonl and test.json; keep one"):
        find(tmp_path)
    write("empty/readme.json")
    with pytest.raises(
        FileNotFoundError, match=r"empty has no TASK/test.json, TASK.json or test.json of AQuA, .*; it has re"
    ):
        find(tmp_path / "empty")
    write("two/a_test.json")
    write("two/b_test.json")
    with pytest.raises(ValueError, match=r"two has both a_test.json and b_test.json; give one of the files"):
        find(tmp_path / "two")
