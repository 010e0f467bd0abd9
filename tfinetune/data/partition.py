"""Hold out examples at random: the same share of every class, duplicates together."""

from collections.abc import Sequence

import numpy as np


def partition(
    labels: np.ndarray,
    *,
    groups: Sequence[Sequence[int]],
    fractions: dict[str, float],
    seed: int,
) -> np.ndarray:
    """Assign each example to the training split or to one that is held out.

    Groups are placed before single examples, each where its classes have most room left, so that
    single examples can make up the numbers. A class keeps at least one example for training;
    as far as it has more, each held-out split gets at least one.

    Args:
        labels: int [n].
        groups: indices that must stay together; others are free.
        fractions: share to hold out by split name, in order of precedence; they sum to less than 1.
        seed: any integer.

    Returns:
        int64 [n]: 0 for training, 1 for the first of `fractions`, and so on.
    """
    classes, labels = np.unique(labels, return_inverse=True)
    room = _quotas(np.bincount(labels, minlength=len(classes)), list(fractions.values()))
    generator = np.random.default_rng(seed)
    grouped = {index for group in groups for index in group}
    bundles = [np.array(group) for group in groups]
    bundles = [bundles[i] for i in generator.permutation(len(bundles))]
    bundles.sort(key=len, reverse=True)
    assignment = np.zeros(len(labels), np.int64)
    for bundle in bundles:
        wanted = np.bincount(labels[bundle], minlength=len(classes))
        # A held-out split takes no more than its share, so no class can vanish from training.
        fits = np.all(room >= wanted, axis=1)
        fits[0] = True
        target = int(np.argmax(np.where(fits, room @ wanted, -np.inf)))
        assignment[bundle] = target
        room[target] -= wanted
    for label in range(len(classes)):
        free = [i for i in np.flatnonzero(labels == label).tolist() if i not in grouped]
        free = np.array(free, np.int64)[generator.permutation(len(free))]
        start = 0
        for split in range(1, len(room)):
            count = min(int(room[split, label]), len(free) - start)
            assignment[free[start : start + count]] = split
            start += count
    return assignment


def _quotas(counts: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """Return int64 [1 + len(fractions), classes]: how many examples each split should get."""
    quotas = np.zeros((1 + len(fractions), len(counts)), np.int64)
    quotas[0] = counts
    for row, fraction in enumerate(fractions, start=1):
        if fraction > 0:
            wanted = np.maximum(1, np.floor(counts * fraction + 0.5).astype(np.int64))
            quotas[row] = np.minimum(wanted, quotas[0] - 1)
            quotas[0] -= quotas[row]
    return quotas
