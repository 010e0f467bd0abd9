"""Folders of tiny photos."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def make_photo() -> Callable:
    """Return a function that writes a small photo, different for each seed."""

    def make(path: Path, *, seed: int, size: tuple[int, int] = (16, 20)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Coarse noise: unlike fine noise it differs in the frequencies that the hash looks at.
        coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
        return path

    return make


@pytest.fixture
def photos(tmp_path, make_photo) -> Path:
    """A folder of two classes, 20 and 10 photos."""
    for name, count, first in (("cat", 20, 0), ("dog", 10, 100)):
        for i in range(count):
            make_photo(tmp_path / "photos" / name / f"{i:02}.png", seed=first + i)
    return tmp_path / "photos"
