"""Tables of scores."""

from __future__ import annotations

import torch
from explain.test_scores import square_masks

from wegeft_pl.explain import compare_nothing, score_markdown, score_table


def test_scores() -> None:
    scores = {"none": compare_nothing(square_masks(6), 0)}
    lines = score_markdown(scores).splitlines()
    assert lines[0] == "| layer | maps | mIoU | best of image | pointing | any map | purity | own labels |"
    assert len(lines) == 4
    assert lines[2].startswith("| none | whole image | 0.25 [0.25, 0.25] | 0.25 | ")
    assert score_table(scores, "title").row_count == 2
    assert torch.is_tensor(square_masks(2).target)
