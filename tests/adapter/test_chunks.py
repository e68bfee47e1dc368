from __future__ import annotations

import pytest
import torch

from wegeft_pl.adapter import chunks as module
from wegeft_pl.adapter.chunks import blocks, blocks_of, chunks


def test_blocks_and_chunks_cover_all_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 6)
    monkeypatch.setattr(module, "BLOCK", 24)
    assert list(blocks(2, 9, 8)) == [(2, 5), (5, 8), (8, 9)]
    assert list(blocks(0, 2, 100)) == [(0, 1), (1, 2)]
    assert list(blocks(3, 3, 8)) == []
    assert list(chunks(torch.zeros(7, 2))) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(chunks(torch.zeros(2, 9))) == [slice(0, 1), slice(1, 2)]
    assert list(chunks(torch.zeros(0, 9))) == []
    assert blocks_of(torch.arange(4)) == [slice(0, 3), slice(3, 4)]
