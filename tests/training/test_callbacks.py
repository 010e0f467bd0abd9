"""FrozenGuard: the official recipe moves BatchNorm statistics, flags on the layers do not."""

import keras
import numpy as np
import pytest

import tfinetune as ft
from tfinetune.errors import TrainablePlanError

IMAGES = np.random.default_rng(0).uniform(0, 255, (16, 16, 16, 3)).astype("float32")
LABELS = np.arange(16) % 2


def fit(base, features):
    model = keras.Model(base.input, keras.layers.Dense(2)(features))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    guard = ft.callbacks.FrozenGuard(base.get_layer("bn_1"))
    model.fit(IMAGES, LABELS, verbose=0, callbacks=[guard])


def test_guard_catches_statistics_that_move_under_training_false(small_cnn):
    base = small_cnn()
    inner = keras.Model(base.input, base.get_layer("gap").output)
    for layer in inner.layers:
        for variable in layer.trainable_variables:
            variable.trainable = False
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, keras.layers.Dense(2)(inner(image, training=False)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(TrainablePlanError, match=r"frozen weights moved.*moving_mean"):
        model.fit(IMAGES, LABELS, verbose=0, callbacks=[ft.callbacks.FrozenGuard(inner)])


def test_guard_accepts_layers_frozen_by_flags(small_cnn):
    base = small_cnn()
    base.trainable = False
    fit(base, base.get_layer("gap").output)
