"""What a checkpoint says of its data, and whether this is that data."""

import pytest

from wegeft_pl.data.place import check_same_data, other_batch, training_data

DESCRIPTION = {
    "name": "Data",
    "path": "/data/a",
    "sha256": {"train.jsonl": "ab", "val.jsonl": "cd"},
    "seed": 42,
    "rows": {"train": 10, "val": 2},
}
STATE = {"epoch": 1, "rows": 4, "global_batch": 4, "data": training_data(DESCRIPTION)}


def test_only_what_training_sees_counts():
    assert training_data(DESCRIPTION) == {"sha256": {"train.jsonl": "ab"}, "seed": 42, "rows": 10}
    moved = {
        **DESCRIPTION,
        "path": "/elsewhere",
        "rows": {"train": 10},
        "sha256": {"train.jsonl": "ab", "val.jsonl": "x"},
    }
    check_same_data(STATE, moved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": {"train": 11}}, "trained on other data: rows was 10 and is 11; give the data options of that run"),
        ({"seed": 1}, "seed was 42 and is 1"),
        ({"sha256": {"train.jsonl": "ff"}}, "sha256 was {'train.jsonl': 'ab'} and is {'train.jsonl': 'ff'}"),
        ({"max_length": 8}, "max_length was None and is 8"),
    ],
)
def test_other_data_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_same_data(STATE, {**DESCRIPTION, **change})


def test_a_checkpoint_without_a_place_is_refused():
    with pytest.raises(ValueError, match=r"written by an earlier version of wegeft_pl .* start anew"):
        check_same_data({"epoch": 0, "batches": 3}, DESCRIPTION)


def test_another_global_batch_in_mid_epoch_is_told():
    assert other_batch(STATE, 4, 10) is None
    assert other_batch({**STATE, "rows": 10}, 8, 10) is None
    assert other_batch(STATE, 8, 10) == (
        "the global batch was 4 rows and is 8: epoch 1 goes on behind row 4 of 10 in batches of the new size, unlike a "
        "run that never stopped"
    )
