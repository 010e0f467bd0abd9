"""Calibration: how far stated confidence is from being right that often, and the one-number fix.

A classifier that says 90% should be right nine times in ten. `expected_calibration_error` measures
the gap, `fit_temperature` finds the divisor of the logits that closes most of it without changing
a single prediction. Method and definitions: Guo et al. 2017, https://arxiv.org/abs/1706.04599.
"""

import math
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from tfinetune.errors import DataError

TEMPERATURE_BOUNDS = (0.05, 20.0)


class ReliabilityBin(TypedDict):
    """One bin of a reliability diagram: examples whose confidence lies in (low, high].

    `confidence` and `accuracy` are the means over the bin, None where it is empty.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the temperature T that makes softmax(logits / T) honest on these examples.

    T minimizes the negative log-likelihood, which is convex in 1/T, so the minimum found is the
    global one. Targets are smoothed by one pseudo-count as in Platt 1999: on a set without a single
    mistake the bare likelihood would grow towards T = 0, claiming certainty that a few dozen
    examples cannot support. With n examples the smoothing weighs 1 / (n + 2).

    Args:
        logits: [n, C], finite.
        labels: [n] integers in [0, C).

    Returns:
        T within `TEMPERATURE_BOUNDS`; above 1 where the model was overconfident. 1.0 where nothing
        can be learned: no example, or logits that say nothing.

    Raises:
        DataError: if shapes disagree, a label is out of range, or a logit is not finite.

    Example:
        >>> fit_temperature([[9.0, 0.0], [9.0, 0.0]], [0, 1]) > 1  # sure, and wrong half the time
        True
    """
    logits, labels = as_scored_examples(logits, labels, scores_name="logits")
    count, classes = logits.shape
    if count == 0:
        return 1.0
    smoothing = 1 / (count + 2)
    targets = np.full(logits.shape, smoothing / (classes - 1))
    targets[np.arange(count), labels] = 1 - smoothing

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / math.exp(log_temperature), axis=1)
        return -float(np.mean(np.sum(targets * log_probabilities, axis=1)))

    bounds = tuple(math.log(bound) for bound in TEMPERATURE_BOUNDS)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    if found.fun > loss(0.0) - 1e-9:
        return 1.0  # a flat loss leaves the search anywhere
    return float(np.clip(math.exp(found.x), *TEMPERATURE_BOUNDS))


def reliability_bins(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 15
) -> list[ReliabilityBin]:
    """Sort examples by the confidence of their prediction into `bins` bins of equal width.

    Args:
        probabilities: [n, C]. The prediction is the largest, its value the confidence.
        labels: [n] integers in [0, C).
        bins: how many; 15 is the number Guo et al. use.
    """
    probabilities, labels = as_scored_examples(probabilities, labels, scores_name="probabilities")
    edges = np.linspace(0, 1, bins + 1)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.digitize(confidence, edges[1:-1], right=True)
    rows: list[ReliabilityBin] = []
    for index in range(bins):
        inside = bin_of == index
        filled = bool(inside.any())
        rows.append(
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "count": int(inside.sum()),
                "confidence": float(confidence[inside].mean()) if filled else None,
                "accuracy": float(correct[inside].mean()) if filled else None,
            }
        )
    return rows


def expected_calibration_error(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15
) -> float | None:
    """Return the mean gap between confidence and accuracy over `bins` equal-width bins, in [0, 1].

    Bins weigh by their count. None without examples.

    Example:
        >>> expected_calibration_error([[0.75, 0.25], [0.75, 0.25]], [0, 1])  # right half the time
        0.25
    """
    return gap_of_bins(reliability_bins(probabilities, labels, bins=bins))


def gap_of_bins(bins: list[ReliabilityBin]) -> float | None:
    """Return the expected calibration error that `bins` show; None when all are empty."""
    filled = [row for row in bins if row["count"]]
    if not filled:
        return None
    gaps = [abs(row["accuracy"] - row["confidence"]) for row in filled]
    return float(np.average(gaps, weights=[row["count"] for row in filled]))


def as_scored_examples(
    scores: npt.ArrayLike, labels: npt.ArrayLike, *, scores_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores as float64 [n, C] and labels as int64 [n], checked against each other."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.ndim != 2 or scores.shape[1] < 2 or labels.shape != scores.shape[:1]:
        raise DataError(
            f"Cannot compare labels of shape {labels.shape} with {scores_name} of shape "
            f"{scores.shape}: labels must be [n] and {scores_name} [n, classes], two classes or "
            "more."
        )
    if not np.isfinite(scores).all():
        rows = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        raise DataError(
            f"The {scores_name} of {len(rows)} of {len(scores)} examples are not finite (first: "
            f"example {rows[0]}). A model that answers NaN has diverged: lower the learning rate."
        )
    if len(labels) and not np.isin(labels, np.arange(scores.shape[1])).all():
        raise DataError(
            f"Labels range from {labels.min()} to {labels.max()}, but {scores_name} have "
            f"{scores.shape[1]} columns: labels must be integers from 0 to {scores.shape[1] - 1}."
        )
    return scores, labels.astype(np.int64)
