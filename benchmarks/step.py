"""Full fine-tuning, per step: tfinetune's runner against plain `model.fit` of the same model.

Both train every layer with AdamW at one rate, BatchNorm frozen, on photos in memory without
augmentation; an epoch of each in turns. tfinetune also clips gradients, decays rates per group and
writes its state after the epoch.

    python -m benchmarks step --backbone base_model.h5
"""

import argparse
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import tfinetune as ft
from benchmarks import model_options
from benchmarks.augmentation import cut_photos
from benchmarks.race import race
from benchmarks.results import Row
from tfinetune.training.runner import compile_for

BATCH_SIZE = 32
LEAST = 1 / 1.03


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks step`."""
    model_options.add_arguments(parser, image_size=96)


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure an epoch."""
    photos = cut_photos(arguments.photos, side=arguments.image_size)
    labels = np.arange(len(photos)) % 2
    ours, peer = with_tfinetune(arguments, photos, labels), with_keras(arguments, photos, labels)
    ours(), peer()
    return [
        race(
            "full fine-tuning",
            ours,
            peer,
            peer_name="model.fit",
            examples=len(photos),
            repeats=arguments.repeats,
            least=LEAST,
        )
    ]


def with_tfinetune(
    arguments: argparse.Namespace, photos: np.ndarray, labels: np.ndarray
) -> Callable[[], object]:
    """Return an epoch of the phase that `full` lists."""
    splits = ft.data.from_arrays(photos, labels, validation=0, test=0)
    backbone = model_options.open_backbone(arguments)
    tuner = ft.FineTuner(backbone, splits.spec, precision="float32")
    (phase,) = tuner.phases(ft.strategies.Full(epochs=1))
    model = tuner.frozen_work(splits, [phase], augment="none").fitted(0, None)
    compile_for(phase, tuner.assembly, model=model, steps=splits.train.steps(BATCH_SIZE))
    batches = splits.train.dataset(BATCH_SIZE, shuffle=True)
    return lambda: model.fit(batches, epochs=1, shuffle=False, verbose=0)


def with_keras(
    arguments: argparse.Namespace, photos: np.ndarray, labels: np.ndarray
) -> Callable[[], object]:
    """Return an epoch of a Keras script that does the same."""
    base = model_options.open_backbone(arguments).model
    for layer in base.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    inputs = keras.Input(photos.shape[1:])
    x = base(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs))
    x = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    model.compile(
        keras.optimizers.AdamW(3e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    batches = tf.data.Dataset.from_tensor_slices((photos, labels)).shuffle(len(photos))
    batches = batches.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    return lambda: model.fit(batches, epochs=1, verbose=0)
