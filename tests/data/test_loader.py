"""The loader: epochs, resuming in the middle of one, workers."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from wegeft_pl.data.loader import EpochLoader, NoBatches
from wegeft_pl.data.order import BatchOrder


class Squares(Dataset):
    def __getitem__(self, index):
        return index * index


def make(shuffle=True, num_workers=0):
    return EpochLoader(Squares(), BatchOrder(10, 3, shuffle=shuffle, seed=3), sorted, num_workers)


def test_batches_are_collated_in_the_order_s_batches():
    loader = make(shuffle=False)
    assert list(loader) == [[0, 1, 4], [9, 16, 25], [36, 49], [64, 81]]
    assert len(loader) == 4


@pytest.mark.parametrize("done", [0, 1, 3, 4])
def test_resumes_behind_the_batches_handed_out(done):
    whole, first, second = make(), make(), make()
    for loader in (whole, first, second):
        loader.batch_sampler.sampler.set_epoch(2)
    expected = list(whole)
    iterator = iter(first)
    for _ in range(done):
        next(iterator)
    second.load_state_dict(first.state_dict())
    assert len(second) == 4  # the length is the epoch's, whatever is left of it
    assert list(second) == expected[done:]
    assert list(second) == expected  # only the first pass is short


def test_the_position_counts_rows_of_all_processes():
    loader = EpochLoader(Squares(), BatchOrder(10, 2, True, 3, 2, 1), sorted)
    batches = iter(loader)
    next(batches)
    assert loader.state_dict() == {"epoch": 0, "rows": 4, "global_batch": 4}
    assert loader.batches_done == 1
    list(batches)
    assert loader.state_dict()["rows"] == 10
    other = make()  # three rows, one process
    other.load_state_dict({"epoch": 0, "rows": 4, "global_batch": 4})
    whole = [row for batch in BatchOrder(10, 3, True, 3).batches() for row in batch]
    assert sorted(r for batch in other for r in batch) == sorted(row * row for row in whole[4:])
    assert other.batches_done == len(other) == 4


def test_batches_are_fetched_without_the_global_generator():
    state = torch.get_rng_state()
    list(make())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_position_of_another_epoch_is_not_skipped():
    loader = make()
    loader.load_state_dict({"epoch": 0, "rows": 6})
    loader.batch_sampler.sampler.set_epoch(1)
    assert len(list(loader)) == 4


def test_lightning_does_not_take_it_for_a_dataloader():
    loader = make()
    assert not isinstance(loader, DataLoader)
    assert not hasattr(loader, "sampler")
    assert not hasattr(loader, "dataset")


def test_a_split_without_rows_has_no_batches():
    loader = NoBatches()
    assert len(loader) == 0
    assert list(loader) == []
    assert loader.flattened == []


@pytest.mark.slow
def test_workers_change_nothing():
    assert list(make(num_workers=1)) == list(make())


def test_only_a_spare_last_batch_is_blanked():
    loaders = [
        EpochLoader(Squares(), BatchOrder(3, 1, False, 0, 2, rank), list, 0, lambda _: "blank") for rank in (0, 1)
    ]
    assert [list(loader) for loader in loaders] == [[[0], [4]], [[1], "blank"]]
