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


def weigh_soft_labels(
    batches: tf.data.Dataset, weights: dict[int, float] | None
) -> tf.data.Dataset:
    """Give every example of a data set with soft labels the mean weight of its classes.

    Keras takes `class_weight` for such labels too but weighs each example as if it were wholly of
    its largest class.

    Args:
        batches: images and float labels [b, classes].
        weights: as `class_weights` returns them.

    Returns:
        Images, labels and, where there are weights, sample weights [b].
    """
    if weights is None:
        return batches
    column = tf.constant([[weights[label]] for label in sorted(weights)], tf.float32)
    return batches.map(lambda images, labels: (images, labels, tf.matmul(labels, column)[:, 0]))
