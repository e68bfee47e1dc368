"""Windows: every token once, BOS in front, cuts that move with the epoch."""

import itertools

import pytest

from wegeft_pl.data.text.windows import TokenWindows, WindowOrder


def keys(windows, random_phase=False, epoch=0, batch_size=4):
    order = WindowOrder(windows, random_phase, batch_size, random_phase, 7)
    order.set_epoch(epoch)
    return [start for batch in order.batches() for start in batch]


SIZES = list(itertools.product([2, 9, 10, 11, 12, 30], [2, 5, 10], [[], [1]]))


@pytest.mark.parametrize(("length", "window", "leading"), SIZES)
def test_windows_cover_the_tokens_in_order(length, window, leading):
    tokens = list(range(100, 100 + length))
    windows = TokenWindows(tokens, window, leading)
    pieces = [windows[start] for start in keys(windows)]
    assert all(piece.input_ids[: len(leading)] == leading for piece in pieces)
    assert all(len(piece.input_ids) <= window for piece in pieces)
    assert all(len(piece.input_ids) == window for piece in pieces[:-1])
    assert all(piece.labels == piece.input_ids for piece in pieces)
    covered = [token for piece in pieces for token in piece.input_ids[len(leading) :]]
    assert covered == tokens[: len(covered)]
    assert length - len(covered) <= (0 if leading else 1)  # a lone last token has nothing in front of it
    assert windows.num_labels == sum(piece.num_labels for piece in pieces)


def test_a_random_phase_moves_the_cuts_and_keeps_windows_whole():
    windows = TokenWindows(list(range(100)), 11, [1], offset=9)
    starts = {epoch: sorted(keys(windows, random_phase=True, epoch=epoch)) for epoch in range(30)}
    assert {len(own) for own in starts.values()} == {len(windows)} == {9}
    assert {own[0] for own in starts.values()} == set(range(10))  # 30 draws reach every phase of this stride
    for own in starts.values():
        assert [b - a for a, b in itertools.pairwise(own)] == [10] * 8
        assert all(len(windows[start].input_ids) == 11 for start in own)
    assert keys(windows, random_phase=True, epoch=3) == keys(windows, random_phase=True, epoch=3)


@pytest.mark.parametrize(("window", "leading"), [(1, []), (1, [1]), (2, [1, 1])])
def test_a_window_needs_room(window, leading):
    with pytest.raises(ValueError, match=f"window must hold at least 2 tokens .*, got {window}"):
        TokenWindows(list(range(10)), window, leading)


def test_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match=r"1 tokens are too few for one window of 5; use a smaller window"):
        TokenWindows([3], 5)
    with pytest.raises(ValueError, match="0 tokens are too few"):
        TokenWindows([], 5, [1])
