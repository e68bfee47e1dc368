"""Samples in packed rows: all of them, whole, in room enough; the same rows however the run is cut."""

import random
from itertools import pairwise

import pytest
import torch

from wegeft_pl.data import GSM8KDataModule
from wegeft_pl.data.text.packing import PackedCollator, PackedOrder, PackedRows, first_fit_decreasing
from wegeft_pl.data.text.tokenize import EncodedExample
from wegeft_pl.losses import IGNORED, labelled_positions

DRAW = random.Random(0)
LENGTHS = [DRAW.randint(1, 40) for _ in range(300)]


def rows(lengths=LENGTHS, capacity=64, seed=0):
    return PackedRows([None] * len(lengths), lengths, capacity, seed)


def flat(batches):
    return [number for batch in batches for pack in batch for number in pack]


@pytest.mark.parametrize("capacity", [40, 64, 1000])
def test_every_sample_is_in_one_row_with_room_for_it(capacity):
    packed = first_fit_decreasing(LENGTHS, capacity)
    assert sorted(number for row in packed for number in row) == list(range(300))
    fill = [sum(LENGTHS[number] for number in row) for row in packed]
    assert max(fill) <= capacity
    # First fit: the first sample of a row found no room in any row before it.
    for later, row in enumerate(packed):
        assert all(fill[earlier] + LENGTHS[row[-1]] > capacity for earlier in range(later))
    assert len(packed) <= 11 / 9 * sum(LENGTHS) / capacity + 2


def test_a_sample_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match=r"a sample of 9 tokens does not fit a row of 8; raise data.max_length"):
        first_fit_decreasing([3, 9], 8)
    assert first_fit_decreasing([], 8) == []


def test_windows_are_drawn_by_the_seed_and_packed_apart(monkeypatch):
    assert rows().packs == rows().packs != rows(seed=1).packs
    monkeypatch.setattr("wegeft_pl.data.text.packing.WINDOW", 100)
    small = rows().packs
    assert sorted(number for pack in small for number in pack) == list(range(300))
    assert len(small) >= len(first_fit_decreasing(LENGTHS, 64))


def test_every_epoch_has_all_samples_in_as_many_rows_and_other_company():
    packed = rows()
    order = PackedOrder(packed, 4, True, 3)
    epochs = []
    for epoch in range(3):
        order.set_epoch(epoch)
        batches = order.batches()
        assert sorted(flat(batches)) == list(range(300))
        assert all(sum(LENGTHS[number] for number in pack) <= 64 for batch in batches for pack in batch)
        assert len(batches) == len(order)
        epochs.append({frozenset(pack) for batch in batches for pack in batch})
    assert len(epochs[0] & epochs[1]) < len(packed) / 2
    again = PackedOrder(rows(), 4, True, 3)
    again.set_epoch(2)
    assert again.batches() == batches
    assert [pack for batch in PackedOrder(packed, 4, False, 3).batches() for pack in batch] == packed.packs


@pytest.mark.parametrize("first", [0, 8, 40])
def test_an_epoch_goes_on_with_another_number_of_processes(first):
    def left(num_processes):
        orders = [
            PackedOrder(rows(), 8 // num_processes, True, 3, num_processes, rank) for rank in range(num_processes)
        ]
        return [
            sorted(pack for rank, batch in enumerate(place) for pack in batch)
            for place in zip(*(order.batches(first) for order in orders), strict=True)
        ]

    whole = PackedOrder(rows(), 8, True, 3).batches()
    assert left(1) == left(2) == left(4) == [sorted(batch) for batch in whole[first // 8 :]]


def test_positions_start_anew_and_first_tokens_have_no_label():
    one = EncodedExample([1, 5, 6, 2], [1, 5, 6, 2], [1], truncated=False)
    two = EncodedExample([1, 7, 2], [IGNORED, 7, 2], [1], truncated=False)
    batch = PackedCollator(pad_id=2, pad_to_multiple_of=4)([[one, two], [two]])
    assert batch["input_ids"].tolist() == [[1, 5, 6, 2, 1, 7, 2, 2], [1, 7, 2, 2, 2, 2, 2, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0], [0, 1, 2, 0, 1, 2, 3, 4]]
    assert batch["attention_mask"].tolist() == [[1] * 7 + [0], [1] * 3 + [0] * 5]
    assert batch["labels"].tolist() == [[-100, 5, 6, 2, -100, 7, 2, -100], [-100, 7, 2] + [-100] * 5]
    assert batch["num_samples"] == 3
    # As many labels count as of the samples alone.
    assert len(labelled_positions(batch["labels"])[1]) == one.num_labels + 2 * two.num_labels


def make(folder, make_tokenizer, **fields):
    module = GSM8KDataModule(str(folder), batch_size=2, max_length=128, **fields)
    tokenizer = make_tokenizer("llama")
    module.resolve_tokenizer = lambda: tokenizer
    module.setup("fit")
    return module


def test_a_module_packs_its_training_samples(gsm8k_folder, make_tokenizer):
    plain, packed = (make(gsm8k_folder, make_tokenizer, packing=packing, val_size=4) for packing in (False, True))
    rows, counted = list(packed.train_dataloader()), list(plain.train_dataloader())

    def labels(batches):
        return sorted(int(id) for batch in batches for id in labelled_positions(batch["labels"])[1])

    assert labels(rows) == labels(counted)
    assert sum(batch["num_samples"] for batch in rows) == 16
    assert sum(int(b["attention_mask"].sum()) for b in rows) == sum(int(b["attention_mask"].sum()) for b in counted)
    assert packed.describe()["packing"] is True
    assert packed.describe()["packed_rows"] == {"train": sum(len(batch["labels"]) for batch in rows)}
    assert packed.describe()["packed_rows"]["train"] < 16
    assert packed.describe()["rows"] == plain.describe()["rows"] == {"train": 16, "val": 4}
    assert "packing" not in plain.describe()
    assert "position_ids" not in next(iter(packed.val_dataloader()))


def test_a_row_has_the_samples_tokens_in_order(gsm8k_folder, make_tokenizer):
    module = make(gsm8k_folder, make_tokenizer, packing=True)
    plain = make(gsm8k_folder, make_tokenizer)
    whole = {tuple(example.input_ids) for example in plain._dataset("train").examples}
    found = []
    for batch in module.train_dataloader():
        for ids, mask, positions in zip(
            batch["input_ids"], batch["attention_mask"], batch["position_ids"], strict=True
        ):
            size = int(mask.sum())
            starts = [*torch.nonzero(positions[:size] == 0).flatten().tolist(), size]
            found += [tuple(ids[a:b].tolist()) for a, b in pairwise(starts)]
    assert len(found) == 20
    assert set(found) == whole


def test_packing_and_grouping_exclude_each_other(gsm8k_folder):
    with pytest.raises(ValueError, match=r"data.packing leaves no padding for data.group_by_length to save"):
        GSM8KDataModule(str(gsm8k_folder), packing=True, group_by_length=True)
