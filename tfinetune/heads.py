"""Heads: what stands on a backbone's features and ends in one score per class."""

import keras
import numpy as np

from tfinetune.errors import BackboneError


def pool_features(features: list[keras.KerasTensor]) -> keras.KerasTensor:
    """Average maps `[b, ..., c]` or tokens `[b, t, c]` to vectors, and join several to `[b, c]`.

    A vector passes through. The pooling has no weights, so pooled features can be cached with a
    frozen backbone.

    Raises:
        BackboneError: if features have no axis of channels, or more than three of positions.
    """
    names = ["pool", *(f"pool_{index}" for index in range(1, len(features)))]
    pooled = [_pool(tensor, name) for tensor, name in zip(features, names, strict=True)]
    return keras.layers.Concatenate(name="join")(pooled) if len(pooled) > 1 else pooled[0]


def _pool(features: keras.KerasTensor, name: str) -> keras.KerasTensor:
    rank = len(features.shape)
    if rank == 2:
        return features
    if rank not in _POOLING:
        raise BackboneError(
            f"Features of shape {list(features.shape[1:])} cannot be averaged to a vector. Pass "
            "features= with the name of a layer whose output is a map, tokens or a vector."
        )
    return _POOLING[rank](name=name)(features)


_POOLING = {
    3: keras.layers.GlobalAveragePooling1D,
    4: keras.layers.GlobalAveragePooling2D,
    5: keras.layers.GlobalAveragePooling3D,
}


def hidden_layer(units: int, *, activation: str, seed: int) -> keras.layers.Dense:
    """Return the layer between features and logits, named `hidden`.

    Args:
        units: outputs.
        activation: a name that Keras knows, such as `relu` or `gelu`.
        seed: of the weights.
    """
    initializer = keras.initializers.HeNormal(seed=seed)
    return keras.layers.Dense(
        units, activation, name="hidden", dtype="float32", kernel_initializer=initializer
    )


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
