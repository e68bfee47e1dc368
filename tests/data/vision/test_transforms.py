"""Sizes against Pillow and slices; augmentation by seed, epoch and row only."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch
from PIL import Image

from wegeft_pl.data.vision.transforms import Augmentation, ImageSize, drawn_from


def chw(pixels):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(pixels), 2, 0)))


@pytest.mark.parametrize(("name", "mode"), [("bicubic", 3), ("bilinear", 2), ("lanczos", 1), ("nearest", 0)])
def test_exact_is_pillow_s_resize(noise, name, mode):
    image = Image.fromarray(noise(0, 30, 50))
    expected = image.resize((16, 16), Image.Resampling(mode))
    assert torch.equal(ImageSize(16, interpolation=name).shrink(image), chw(expected))


@pytest.mark.parametrize(("height", "width", "shape"), [(30, 60, (20, 40)), (60, 30, (40, 20))])
def test_shorter_keeps_the_shape_and_the_middle_is_cut_out(noise, height, width, shape):
    size = ImageSize(16, "shorter", 20)
    image = Image.fromarray(noise(0, height, width))
    resized = size.shrink(image)
    assert torch.equal(resized, chw(image.resize(shape[::-1], Image.Resampling.BICUBIC)))
    top, left = (shape[0] - 16) // 2, (shape[1] - 16) // 2
    assert torch.equal(size.center_crop(resized), resized[:, top : top + 16, left : left + 16])


def augment(kind, pixels, epoch, row, seed=0, size=None):
    size = size or ImageSize(pixels.shape[1])
    with drawn_from(seed, epoch, row):
        return Augmentation(kind, None, size).on_pixels(pixels)


def test_flip_mirrors_half_of_the_time(noise):
    pixels = chw(noise(0, 16, 16))
    mirrored = pixels.flip(2)
    outcomes = [augment("flip", pixels, epoch, row) for epoch in range(4) for row in range(100)]
    count = sum(torch.equal(outcome, mirrored) for outcome in outcomes)
    assert all(torch.equal(outcome, mirrored) or torch.equal(outcome, pixels) for outcome in outcomes)
    assert 150 < count < 250


def test_a_crop_is_a_window_and_reaches_every_place():
    size = ImageSize(4, "exact", 6)
    pixels = torch.arange(36).view(1, 6, 6).expand(3, 6, 6).to(torch.uint8)
    corners = set()
    for row in range(200):
        crop = augment("crop_flip", pixels, 0, row, size=size)
        crop = crop if crop[0, 0, 0] < crop[0, 0, 1] else crop.flip(2)
        top, left = divmod(int(crop[0, 0, 0]), 6)
        assert torch.equal(crop, pixels[:, top : top + 4, left : left + 4])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(3)}


def test_none_is_the_centre_crop(noise):
    pixels = chw(noise(0, 20, 20))
    assert torch.equal(augment("none", pixels, 0, 0, size=ImageSize(16, "exact", 20)), pixels[:, 2:18, 2:18])


def test_draws_depend_on_seed_epoch_and_row_alone():
    def draw(*numbers):
        with drawn_from(*numbers):
            return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = draw(1, 2, 3)
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    assert draw(1, 2, 3) == first
    others = [draw(0, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(2, 1, 3), draw(-1, 2, 3)]
    for number in range(3):
        assert len({draws[number] for draws in (first, *others)}) == 6


def test_the_generators_of_training_stay_where_they_are():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with contextlib.suppress(KeyError), drawn_from(1, 2, 3):
        random.random(), np.random.rand(), torch.rand(3)
        raise KeyError
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("policy", [None, "rand-m9-mstd0.5-inc1"])
def test_timm_draws_nothing_else(noise, timm, policy):
    augmentation = Augmentation("timm", policy, ImageSize(16))
    image = Image.fromarray(noise(0, 40, 40))

    def made(*numbers):
        with drawn_from(*numbers):
            return augmentation.on_image(image)

    assert augmentation.wants_whole_image
    first = made(0, 0, 0)
    assert (first.shape, first.dtype) == ((3, 16, 16), torch.uint8)
    random.random(), np.random.rand(), torch.rand(3)
    assert torch.equal(made(0, 0, 0), first)
    assert not torch.equal(made(0, 1, 0), first)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageSize(0), r"data\.image_size must be at least 1, got 0"),
        (lambda: ImageSize(24, resize_size=20), r"data\.resize_size must be at least data\.image_size=24.*got 20"),
        (lambda: Augmentation("flip", "rand-m9", ImageSize(8)), r"data\.auto_augment='rand-m9' needs .*timm, got flip"),
        (lambda: Augmentation("crop_flip", None, ImageSize(8)), r"nothing to crop: .*8 x 8; set data\.resize_size"),
    ],
)
def test_fields_that_do_not_go_together(make, message):
    with pytest.raises(ValueError, match=message):
        make()
