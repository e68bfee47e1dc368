"""Small images and folders of them, made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Maker = Callable[..., Path]


@pytest.fixture(autouse=True)
def _torchvision() -> None:
    """Skips where there is no torchvision that fits torch."""
    try:
        import torchvision.transforms.v2  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """Makes random pixels (H, W, 3) of a seed."""
    return lambda seed, height=20, width=24: np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def save(tmp_path: Path, noise: Callable[..., np.ndarray]) -> Maker:
    """Writes a random PNG under a name and returns its path."""

    def save(name: str, seed: int = 0, height: int = 20, width: int = 24) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(seed, height, width)).save(path)
        return path

    return save


@pytest.fixture
def folder(save: Maker, tmp_path: Path) -> Path:
    """Three classes with 6, 4 and 2 training images and one each to validate."""
    seed = 0
    for name, count in (("ant", 6), ("bee", 4), ("cow", 2)):
        for number in range(count):
            save(f"animals/train/{name}/{number}.png", seed, 20 + number, 24)
            seed += 1
        save(f"animals/val/{name}/0.png", 100 + seed)
    return tmp_path / "animals"


@pytest.fixture
def fields(tmp_path: Path) -> dict[str, object]:
    """Fields of a small data module that keeps its pixels in the test's own folder."""
    return {"image_size": 16, "normalization": "none", "cache_dir": str(tmp_path / "cache"), "batch_size": 4}
