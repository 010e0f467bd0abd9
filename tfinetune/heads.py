"""Heads: what stands on a backbone's features and ends in one score per class."""

import keras
import numpy as np


def pool_features(features: keras.KerasTensor) -> keras.KerasTensor:
    """Average a feature map `[b, h, w, c]` or tokens `[b, t, c]` to vectors `[b, c]`.

    A vector passes through. The pooling has no weights, so pooled features can be cached with a
    frozen backbone.
    """
    if len(features.shape) == 4:
        return keras.layers.GlobalAveragePooling2D(name="pool")(features)
    if len(features.shape) == 3:
        return keras.layers.GlobalAveragePooling1D(name="pool")(features)
    return features


def logits_layer(num_classes: int, *, seed: int) -> keras.layers.Dense:
    """Return the last layer, named `logits`; float32 whatever the backbone's precision."""
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(
        num_classes, name="logits", dtype="float32", kernel_initializer=initializer
    )


def probabilities(logits: keras.KerasTensor, *, temperature: float = 1.0) -> keras.KerasTensor:
    """Turn logits `[b, classes]` into calibrated probabilities that sum to 1.

    Args:
        logits: one score per class.
        temperature: divides the logits (Guo et al. 2017, "On Calibration of Modern Neural
            Networks"); 1 leaves the softmax as it is.
    """
    scaled = keras.layers.Rescaling(
        float(np.float32(1.0 / temperature)), name="temperature", dtype="float32"
    )(logits)
    return keras.layers.Softmax(name="probabilities", dtype="float32")(scaled)
