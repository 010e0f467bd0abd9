"""What training minimizes, and what it is measured by."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

CROSS_ENTROPY = "cross_entropy"
"""Metric of the loss and nothing else, by which phases of any smoothing can be compared."""


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


class EachOnce(keras.metrics.MeanMetricWrapper):
    """A mean over all examples whose weight is not 0, each counted once."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch."""
        counted = None if sample_weight is None else ops.sign(sample_weight)
        super().update_state(y_true, y_pred, counted)


def metrics(*, loss_too: bool = False, soft_labels: bool = False) -> list[keras.Metric]:
    """Return the weighted metrics to compile with: `accuracy`, and the loss proper.

    Args:
        loss_too: whether the loss that is minimized is another: smoothed, weighted so that it is
            a replica's share, or with penalties of the backbone's regularizers.
        soft_labels: see `cross_entropy`.
    """
    accuracy, loss = (
        (keras.metrics.categorical_accuracy, keras.metrics.categorical_crossentropy)
        if soft_labels
        else (
            keras.metrics.sparse_categorical_accuracy,
            keras.metrics.sparse_categorical_crossentropy,
        )
    )
    measured = [EachOnce(accuracy, name="accuracy")]
    if loss_too:
        measured.append(EachOnce(loss, name=CROSS_ENTROPY, from_logits=True))
    return measured
