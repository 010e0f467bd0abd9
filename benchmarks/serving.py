"""Predicting: the exported SavedModel and tfinetune's `predict` against plain `model.predict`.

The same fine-tuned model and the same photos, decoded and in memory.

    python -m benchmarks serving --backbone base_model.h5
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

import tfinetune as ft
from benchmarks import model_options
from benchmarks.augmentation import cut_photos
from benchmarks.race import race
from benchmarks.results import Row
from tfinetune.inference import constant_function, predict

BATCH_SIZE = 64
LEAST = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks serving`."""
    model_options.add_arguments(parser, image_size=160)


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure both ways to predict."""
    photos = cut_photos(arguments.photos, side=arguments.image_size).astype(np.float32)
    splits = ft.data.from_arrays(photos, np.arange(len(photos)) % 2, validation=0, test=0)
    backbone = model_options.open_backbone(arguments)
    tuner = ft.FineTuner(backbone, splits.spec)
    function = constant_function(tuner.model)
    with tempfile.TemporaryDirectory() as folder:
        tuner.export(Path(folder) / "1")
        signature = tf.saved_model.load(str(Path(folder) / "1")).signatures["serving_default"]

    def serve() -> np.ndarray:
        answers = [signature(images=tf.constant(batch)) for batch in batches()]
        return np.concatenate([answer["probabilities"].numpy() for answer in answers])

    def batches() -> list[np.ndarray]:
        return [photos[start : start + BATCH_SIZE] for start in range(0, len(photos), BATCH_SIZE)]

    def ours() -> np.ndarray:
        dataset = tf.data.Dataset.from_tensor_slices(photos).batch(BATCH_SIZE)
        return predict(function, dataset, total=len(photos))

    def plain() -> np.ndarray:
        return tuner.model.predict(photos, batch_size=BATCH_SIZE, verbose=0)

    expected = plain()
    rows = []
    for name, contestant in (("exported SavedModel", serve), ("predict", ours)):
        difference = float(np.abs(contestant() - expected).max())
        rows.append(
            race(
                name,
                contestant,
                plain,
                peer_name="model.predict",
                examples=len(photos),
                repeats=arguments.repeats,
                least=LEAST,
                note=f"differs by {difference:.0e}",
            )
        )
    return rows
