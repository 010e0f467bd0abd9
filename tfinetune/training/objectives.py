"""What training minimizes, and what it is measured by."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

CROSS_ENTROPY = "cross_entropy"
"""Metric of the loss without label smoothing, so that losses of any smoothing can be compared."""


def cross_entropy(label_smoothing: float = 0.0) -> Callable[[Any, Any], Any]:
    """Return the loss of logits `[b, classes]` against class indices `[b]`.

    Args:
        label_smoothing: share of each label that is spread evenly over all classes, in [0, 1).
    """
    if not label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def smoothed(labels: Any, logits: Any) -> Any:
        one_hot = ops.one_hot(ops.cast(ops.reshape(labels, [-1]), "int32"), logits.shape[-1])
        return ops.categorical_crossentropy(
            one_hot * (1 - label_smoothing) + label_smoothing / logits.shape[-1],
            logits,
            from_logits=True,
        )

    return smoothed


def metrics(label_smoothing: float = 0.0) -> list[keras.Metric]:
    """Return what is measured beside the loss: `accuracy`, and the loss proper where it differs."""
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    if not label_smoothing:
        return [accuracy]
    loss = keras.metrics.SparseCategoricalCrossentropy(name=CROSS_ENTROPY, from_logits=True)
    return [accuracy, loss]
