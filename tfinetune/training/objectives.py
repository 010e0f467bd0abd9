"""What training minimizes, and what it is measured by."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

CROSS_ENTROPY = "cross_entropy"
"""Metric of the loss without label smoothing, so that losses of any smoothing can be compared."""


def cross_entropy(
    label_smoothing: float = 0.0, *, soft_labels: bool = False, from_logits: bool = True
) -> Callable[[Any, Any], Any]:
    """Return the loss of scores `[b, classes]` against labels.

    Args:
        label_smoothing: share of each label that is spread evenly over all classes, in [0, 1).
        soft_labels: whether labels are shares of the classes `[b, classes]`, else one class `[b]`.
        from_logits: whether the scores are logits, else they are probabilities.
    """
    if soft_labels:
        return keras.losses.CategoricalCrossentropy(
            from_logits=from_logits, label_smoothing=label_smoothing
        )
    if not label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)

    def smoothed(labels: Any, scores: Any) -> Any:
        one_hot = ops.one_hot(ops.cast(ops.reshape(labels, [-1]), "int32"), scores.shape[-1])
        return keras.losses.categorical_crossentropy(
            one_hot, scores, from_logits=from_logits, label_smoothing=label_smoothing
        )

    return smoothed


def metrics(label_smoothing: float = 0.0, *, soft_labels: bool = False) -> list[keras.Metric]:
    """Return what is measured beside the loss: `accuracy`, and the loss proper where it differs."""
    accuracy, loss = (
        (keras.metrics.CategoricalAccuracy, keras.metrics.CategoricalCrossentropy)
        if soft_labels
        else (keras.metrics.SparseCategoricalAccuracy, keras.metrics.SparseCategoricalCrossentropy)
    )
    measured = [accuracy(name="accuracy")]
    if label_smoothing:
        measured.append(loss(name=CROSS_ENTROPY, from_logits=True))
    return measured
