"""Batches of images: pixels, labels, indices, and the batch that counts for nothing."""

from __future__ import annotations

import numpy as np
import torch

from wegeft_pl.data.vision.dataset import AugmentedOrder, ImageCollator, ImageExample, blank_images
from wegeft_pl.data.vision.normalization import Normalization


def test_the_collator_normalizes_channel_by_channel(noise):
    pixels = [noise(seed, 8, 8) for seed in range(3)]
    mean, std = np.array([0.485, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])
    examples = [
        ImageExample(torch.from_numpy(np.moveaxis(image, 2, 0).copy()), label, 10 + label)
        for label, image in enumerate(pixels)
    ]
    batch = ImageCollator(Normalization("own", tuple(mean), tuple(std)))(examples)
    expected = np.stack([np.moveaxis((image / 255 - mean) / std, 2, 0) for image in pixels])
    assert batch["pixel_values"].dtype == torch.float32
    np.testing.assert_allclose(batch["pixel_values"].numpy(), expected, atol=1e-6)
    assert batch["labels"].dtype == batch["indices"].dtype == torch.int64
    assert batch["labels"].tolist() == [0, 1, 2]
    assert batch["indices"].tolist() == [10, 11, 12]

    blank = blank_images(batch)
    assert blank["labels"].tolist() == [-100] * 3
    assert blank["indices"].tolist() == [-1] * 3
    assert batch["labels"].tolist() == [0, 1, 2]


def test_the_order_carries_the_epoch():
    order = AugmentedOrder(5, 2, True, 0)
    order.set_epoch(3)
    keys = [key for batch in order.batches() for key in batch]
    assert {epoch for epoch, _ in keys} == {3}
    assert sorted(row for _, row in keys) == list(range(5))
