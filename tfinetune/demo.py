"""`tfinetune demo`: the main job on real scanned digits with a small backbone, both already here.

The digits ship inside scikit-learn. The backbone ships with this package, was pretrained on drawn
glyphs by `examples/pretrain_demo_backbone.py` and has never seen a digit.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tfinetune import workflow
from tfinetune.errors import DataError
from tfinetune.recipe import Recipe
from tfinetune.reporting import Reporter
from tfinetune.runs import RunFolder
from tfinetune.training.strategies import Full
from tfinetune.workflow.prepare import EMBEDDED_BACKBONE, prepare

EPOCHS = 6
VALIDATION = 0.2
IMAGE_SIZE = 32
"""Side in pixels of the written digits, and the input side of the backbone."""


def run_demo(
    output: str | Path, *, seed: int = 0, reporter: Reporter | None = None
) -> workflow.Run:
    """Fine-tune on 20 digits of each class, test on all the rest, and compare with scratch.

    The digits are written beside the run, into `<output>-digits-<seed>`, so that its recipe
    reproduces.

    Args:
        output: run folder to write.
        seed: which digits are learned from.
        reporter: shows progress; None is silent.
    """
    output = Path(output).resolve()
    digits = output.with_name(f"{output.name}-digits-{seed}")
    reporter = reporter or Reporter()
    RunFolder.create(output)
    write_digits(digits, seed=seed)
    recipe = Recipe(
        data=str(digits.resolve()),
        backbone=str(EMBEDDED_BACKBONE),
        validation=VALIDATION,
        strategy_parameters={"epochs": EPOCHS},
        augmentation="no_flip",
        batch_size=16,
        seed=seed,
    )
    with reporter:
        scratch = train_from_scratch(recipe, reporter=reporter)
    return workflow.train(recipe, output, reporter=reporter, comparison=[scratch])


def train_from_scratch(recipe: Recipe, *, reporter: Reporter) -> dict[str, Any]:
    """Train the recipe's architecture from random weights: as many epochs, on the same photos.

    BatchNorm trains and the rate is the usual one for AdamW, since there is nothing to preserve.

    Returns:
        A row for the report: name, test accuracy with its 95% interval, training seconds.
    """
    _, tuner, splits = prepare(recipe.replace(weights="none"), reporter)
    started = time.monotonic()
    tuner.fit(
        splits,
        Full(epochs=recipe.strategy_parameters["epochs"], learning_rate=2e-3, batch_norm="adapt"),
        batch_size=recipe.batch_size,
        augment=recipe.augmentation,
    )
    seconds = time.monotonic() - started
    metrics = tuner.evaluate(splits.test)
    return {
        "name": "same architecture from scratch",
        "accuracy": metrics["accuracy"],
        "interval": metrics["accuracy_interval"],
        "seconds": seconds,
    }


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
