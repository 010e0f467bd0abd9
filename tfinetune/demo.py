"""The material of `tfinetune demo`: real scanned digits and a small backbone, both already here.

The digits ship inside scikit-learn. The backbone ships with this package, was pretrained on drawn
glyphs by `examples/pretrain_demo_backbone.py` and has never seen a digit.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from tfinetune.errors import DataError

BACKBONE = Path(__file__).parent / "assets" / "demo_backbone.h5"
IMAGE_SIZE = 32
"""Side in pixels of the written digits, and the input side of the backbone."""


def write_digits(folder: str | Path, *, per_class: int = 20, seed: int = 0) -> None:
    """Write scikit-learn's 1,797 scanned digits as PNG files into train and test folders.

    `folder/train/<digit>/` gets `per_class` scans of each digit, drawn at random by `seed`, and
    `folder/test/<digit>/` all the rest. A file is named after the scan's row in `load_digits`. The
    scans have 8x8 pixels of 17 grey levels; they are stretched to 0..255 and enlarged to 32x32
    (bicubic). The same arguments write the same bytes.

    Args:
        folder: Where to write; created when missing. Its other contents are left alone.
        per_class: Training scans of each digit, 1..173: the rarest digit has 174 scans.
        seed: Which scans are the training ones.

    Raises:
        DataError: if `per_class` leaves a digit without training or without test scans.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    rarest = int(np.bincount(digits.target).min())
    if not 1 <= per_class < rarest:
        raise DataError(
            f"write_digits(per_class={per_class}) leaves nothing to train or to test on. Choose "
            f"1..{rarest - 1}: the rarest digit has {rarest} scans."
        )
    rng = np.random.default_rng(seed)
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(digits.target == digit))
        for split, chosen in (("train", rows[:per_class]), ("test", rows[per_class:])):
            target = Path(folder) / split / str(digit)
            target.mkdir(parents=True, exist_ok=True)
            for row in chosen:
                _enlarge(digits.images[row]).save(target / f"{row:04d}.png")


def _enlarge(scan: np.ndarray) -> Image.Image:
    """Turn a scan [8, 8] of intensities 0..16 into a grey picture of 32x32 pixels."""
    levels = np.rint(scan * (255 / 16)).astype(np.uint8)
    return Image.fromarray(levels).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
