"""Normalizations by name and by backbone."""

from __future__ import annotations

import pytest

from wegeft_pl.data.vision.normalization import Normalization, normalization_of


class Task:
    """A task whose backbone has numbers of its own."""

    def __init__(self, mean, std):
        self.numbers = mean, std

    def input_normalization(self):
        return self.numbers


def test_by_name():
    assert normalization_of("imagenet", None).mean == (0.485, 0.456, 0.406)
    assert normalization_of("imagenet", None).std == (0.229, 0.224, 0.225)
    assert normalization_of("none", Task([1], [1])) == Normalization("none", (0, 0, 0), (1, 1, 1))


def test_the_backbone_s_own():
    own = normalization_of("backbone", Task([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]))
    assert own == Normalization("backbone", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert str(own) == "backbone (mean 0.1, 0.2, 0.3; std 0.4, 0.5, 0.6)"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (None, "asks the task's backbone, and there is no task; set it to imagenet, half or none"),
        (object(), r"and object has no input_normalization\(\); set it"),
        (Task([0.5], [0.5]), r"for each of 3 channels, got mean \(0.5,\)"),
        (Task([0, 0, 0], [1, 0, 1]), "a std above 0"),
    ],
)
def test_no_numbers(task, message):
    with pytest.raises(ValueError, match=message):
        normalization_of("backbone", task)
