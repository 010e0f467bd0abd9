"""Weights that keep small classes from being ignored."""

import numpy as np
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from tfinetune.data import Split

IMBALANCE_LIMIT = 3.0


def class_weights(split: Split, *, mode: str = "auto") -> dict[int, float] | None:
    """Return a loss weight per class, inversely proportional to its number of photos.

    Args:
        split: the training split; every class has at least one example.
        mode: `auto` weighs when the largest class has over 3 times the smallest's photos,
            `always` and `never` decide it.

    Returns:
        `{class index: weight}` whose mean over the examples is 1, or None for equal weights.
    """
    counts = np.bincount(split.labels, minlength=split.num_classes)
    is_balanced = counts.max() <= IMBALANCE_LIMIT * counts.min()
    if mode == "never" or (mode == "auto" and is_balanced):
        return None
    classes = np.arange(split.num_classes)
    weights = compute_class_weight("balanced", classes=classes, y=split.labels)
    return {int(c): float(w) for c, w in zip(classes, weights, strict=True)}


def weigh(batches: tf.data.Dataset, weights: dict[int, float] | None) -> tf.data.Dataset:
    """Give every example of a data set the weight of its class, of soft labels their mean weight.

    Keras takes `class_weight` for soft labels too but weighs each example as if it were wholly of
    its largest class, and takes no other weights beside it.

    Args:
        batches: inputs and labels, int [b] or float [b, classes].
        weights: as `class_weights` returns them.

    Returns:
        Inputs, labels and, where there are weights, sample weights [b].
    """
    if weights is None:
        return batches
    by_class = tf.constant([weights[label] for label in sorted(weights)], tf.float32)

    def weight(labels: tf.Tensor) -> tf.Tensor:
        soft = labels.dtype.is_floating
        return tf.linalg.matvec(labels, by_class) if soft else tf.gather(by_class, labels)

    return batches.map(lambda inputs, labels: (inputs, labels, weight(labels)))
