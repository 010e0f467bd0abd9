"""Metrics of a classifier on one split, as a JSON-ready dictionary.

Every number is a plain Python value and an undefined one is None, never NaN: `metrics.json` must
parse everywhere, and "recall of a class that is not in the test set" has no value to give.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from tfinetune.errors import DataError
from tfinetune.evaluation.calibration import (
    ReliabilityBin,
    as_scored_examples,
    gap_of_bins,
    reliability_bins,
)


class ClassMetrics(TypedDict):
    """One class: values in [0, 1], None where undefined; `support` counts its examples."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class Metrics(TypedDict):
    """What `classification_metrics` returns; only the counts have a value without examples."""

    n: int
    accuracy: float | None
    accuracy_interval: list[float] | None
    macro_f1: float | None
    log_loss: float | None
    ece: float | None
    per_class: list[ClassMetrics]
    confusion: list[list[int]]
    reliability: list[ReliabilityBin]


class ConfusedPair(NamedTuple):
    """Examples of class `true` taken for class `predicted` (both indices)."""

    true: int
    predicted: int
    count: int
    support: int


def classification_metrics(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, class_names: Sequence[str]
) -> Metrics:
    """Compare predicted probabilities with the labels.

    Args:
        labels: [n] integers in [0, C).
        probabilities: [n, C], rows sum to 1.
        class_names: C names, in the order of the columns.

    Returns:
        `accuracy_interval` is Wilson's 95% interval. `macro_f1` is the mean over the classes that
        occur in `labels`. `confusion[i][j]` counts class i taken for class j. A class without
        examples has no recall and no F1, one that was never predicted no precision.

    Raises:
        DataError: if shapes disagree, a label is out of range, or a probability is not finite.

    Example:
        >>> metrics = classification_metrics([0, 1], [[0.9, 0.1], [0.6, 0.4]], ["cat", "dog"])
        >>> metrics["accuracy"], metrics["confusion"]
        (0.5, [[1, 0], [1, 0]])
    """
    probabilities, labels = as_scored_examples(probabilities, labels, scores_name="probabilities")
    count, classes = probabilities.shape
    if len(class_names) != classes:
        raise DataError(
            f"{len(class_names)} class names were given for probabilities of {classes} classes."
        )
    sums = probabilities.sum(axis=1, keepdims=True)
    if count and (probabilities.min() < 0 or np.abs(sums - 1).max() > 0.01):
        raise DataError(
            f"Rows of probabilities must be at least 0 and sum to 1; these sum to "
            f"{sums.min():.4g} to {sums.max():.4g}. Were logits given? Apply softmax first."
        )
    # The sum of a float32 softmax misses 1 by more than sklearn tolerates in float64.
    probabilities = probabilities / sums
    predicted = probabilities.argmax(axis=1)
    correct = int((predicted == labels).sum())
    per_class = _per_class(labels, predicted, class_names)
    bins = reliability_bins(probabilities, labels)
    present = [row["f1"] for row in per_class if row["support"]]
    return {
        "n": count,
        "accuracy": correct / count if count else None,
        "accuracy_interval": wilson_interval(correct, count),
        "macro_f1": float(np.mean(present)) if present else None,
        "log_loss": _log_loss(labels, probabilities),
        "ece": gap_of_bins(bins),
        "per_class": per_class,
        "confusion": _confusion(labels, predicted, classes),
        "reliability": bins,
    }


def wilson_interval(correct: int, count: int) -> list[float] | None:
    """Return Wilson's 95% interval of a share of `count` examples, or None without examples."""
    if not count:
        return None
    interval = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def most_confused(confusion: Sequence[Sequence[int]], *, limit: int = 10) -> list[ConfusedPair]:
    """Return the most frequent pairs of (true, predicted) that are wrong, most frequent first."""
    matrix = np.asarray(confusion)
    pairs = [
        ConfusedPair(int(true), int(predicted), int(matrix[true, predicted]), int(support))
        for true, support in enumerate(matrix.sum(axis=1))
        for predicted in np.flatnonzero(matrix[true])
        if predicted != true
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.count / pair.support))[:limit]


def worst_mistakes(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, limit: int = 24
) -> np.ndarray:
    """Return the indices of wrong predictions, most confident first: int64 [at most `limit`]."""
    probabilities, labels = as_scored_examples(probabilities, labels, scores_name="probabilities")
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    most_confident_first = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[most_confident_first][:limit]


def _log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    if not len(labels):
        return None
    return float(log_loss(labels, probabilities, labels=np.arange(probabilities.shape[1])))


def _confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> list[list[int]]:
    if not len(labels):  # sklearn refuses a list of labels none of which occurs
        return [[0] * classes for _ in range(classes)]
    return confusion_matrix(labels, predicted, labels=np.arange(classes)).tolist()


def _per_class(
    labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]
) -> list[ClassMetrics]:
    if not len(labels):
        undefined = {"precision": None, "recall": None, "f1": None, "support": 0}
        return [{"name": str(name), **undefined} for name in class_names]
    columns = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(class_names)), zero_division=np.nan
    )
    return [
        {
            "name": str(name),
            "precision": _defined(precision),
            "recall": _defined(recall),
            "f1": _defined(f1) if support else None,
            "support": int(support),
        }
        for name, precision, recall, f1, support in zip(class_names, *columns, strict=True)
    ]


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
