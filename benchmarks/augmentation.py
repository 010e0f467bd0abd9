"""Augmentation speed: views made by tfinetune's fused policies and by Keras's layers in `tf.data`.

Both read the same photos from memory, decoded, and give batches of 32 at the same size. The photos
are cut from scikit-learn's two sample pictures. Start-up (tracing, compiling) is not counted.

    python -m benchmarks augmentation
"""

import argparse
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_sample_images

import tfinetune as ft
from benchmarks.race import race
from benchmarks.results import Row

BATCH_SIZE = 32
LEAST = {"standard": 4.0, "strong": 12.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks augmentation`."""
    parser.add_argument("--photos", type=int, default=512)
    parser.add_argument("--image-size", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=5)


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure both policies."""
    photos = cut_photos(arguments.photos, side=arguments.image_size)
    labels = np.arange(len(photos)) % 2
    train = ft.data.from_arrays(photos, labels, validation=0, test=0).train
    rows = []
    for policy, layers in (("standard", standard_layers()), ("strong", strong_layers())):
        ours = reader(train.dataset(BATCH_SIZE, augment=policy))
        peer = reader(augmented_by_keras(photos, layers))
        ours(), peer()
        rows.append(
            race(
                f"{policy} augmentation",
                ours,
                peer,
                peer_name="keras.layers." + ("RandAugment" if policy == "strong" else "Random*"),
                examples=len(photos),
                repeats=arguments.repeats,
                least=LEAST[policy],
            )
        )
    return rows


def standard_layers() -> list[keras.Layer]:
    """Return the operations and ranges of the policy "standard" as Keras layers.

    Saturation and hue are given in Keras's own units: its factors are 0.5 for no change of
    saturation, and shares of half a turn for hue.
    """
    return [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(15 / 360),
        keras.layers.RandomZoom(0.15),
        keras.layers.RandomTranslation(0.08, 0.08),
        keras.layers.RandomSaturation((0.45, 0.55)),
        keras.layers.RandomHue(0.04),
        keras.layers.RandomContrast(0.2),
        keras.layers.RandomBrightness(0.1),
    ]


def strong_layers() -> list[keras.Layer]:
    """Return Keras's own strong augmentation at its defaults."""
    return [keras.layers.RandAugment(value_range=(0, 255))]


def augmented_by_keras(photos: np.ndarray, layers: Sequence[keras.Layer]) -> tf.data.Dataset:
    """Augment in `tf.data`, as the guide to preprocessing layers recommends for CPUs."""
    augmentation = keras.Sequential(layers)
    dataset = tf.data.Dataset.from_tensor_slices(photos).batch(BATCH_SIZE)
    dataset = dataset.map(
        lambda images: augmentation(images, training=True), num_parallel_calls=tf.data.AUTOTUNE
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


def reader(dataset: tf.data.Dataset) -> Callable[[], None]:
    """Return a function that takes every batch once."""

    def read() -> None:
        for _ in dataset:
            pass

    return read


def cut_photos(count: int, *, side: int) -> np.ndarray:
    """Cut squares out of two real photos: uint8 [count, side, side, 3]."""
    pictures = load_sample_images().images
    random = np.random.default_rng(0)
    squares = []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        top, left = (random.integers(0, room - side + 1) for room in picture.shape[:2])
        squares.append(picture[top : top + side, left : left + side])
    return np.stack(squares)
