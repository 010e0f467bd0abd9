"""Tiny models of the shapes that real backbones have."""

from collections.abc import Callable
from functools import cache

import keras
import pytest

layers = keras.layers


@pytest.fixture
def small_cnn() -> Callable[..., keras.Model]:
    """Return a builder of Conv-BN-ReLU blocks at 16, 8 and 4 pixels, with an optional top."""

    def build(*, top: str | None = "pool", classes: int = 5, size: int = 16) -> keras.Model:
        keras.utils.set_random_seed(0)
        inputs = x = keras.Input((size, size, 3))
        for i, (filters, strides) in enumerate([(4, 1), (6, 2), (8, 2)]):
            x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=f"c{i}")(x)
            x = layers.BatchNormalization(name=f"bn{i}")(x)
            x = layers.ReLU(name=f"relu{i}")(x)
        if top == "pool":
            x = layers.GlobalAveragePooling2D(name="gap")(x)
            x = layers.Dropout(0.2, name="drop")(x)
            x = layers.Dense(classes, activation="softmax", name="classes")(x)
        elif top == "flatten":
            x = layers.Flatten(name="flat")(x)
            x = layers.Dense(7, activation="relu", name="fc")(x)
            x = layers.Dense(classes, name="classes")(x)
        elif top == "convolution":
            x = layers.Dropout(0.2, name="drop")(x)
            x = layers.Conv2D(classes, 1, name="classes")(x)
            x = layers.GlobalAveragePooling2D(name="gap")(x)
            x = layers.Activation("softmax", name="probabilities")(x)
        elif top == "features":
            x = layers.GlobalAveragePooling2D(name="gap")(x)
        return keras.Model(inputs, x, name="small")

    return build


@pytest.fixture(scope="session")
def application() -> Callable[[str], keras.Model]:
    """Return a builder of keras.applications without weights and top, at 96 pixels."""

    @cache
    def build(name: str) -> keras.Model:
        constructor = getattr(keras.applications, name)
        return constructor(weights=None, include_top=False, input_shape=(96, 96, 3))

    return build
