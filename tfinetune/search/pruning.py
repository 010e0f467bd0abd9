"""When a trial has no hope left."""

from collections.abc import Sequence
from statistics import median
from typing import Any

WARM_UP = 1 / 3
"""Share of a trial's epochs before which it is never judged: rates are still rising."""

ENOUGH = 4
"""Trials that must have come as far before one is judged by them."""


def is_hopeless(history: Sequence[dict[str, Any]], others: Sequence[Sequence[dict]]) -> bool:
    """Return whether a trial's best accuracy is below what half the others averaged by now.

    The median stopping rule of Golovin et al. 2017, "Google Vizier".

    Args:
        history: rows of the trial's epochs, with `val_accuracy` and `share`, the part of its epochs
            that is done, in (0, 1].
        others: such rows of trials that have ended.
    """
    if not history or history[-1]["share"] < WARM_UP:
        return False
    share = history[-1]["share"]
    averages = []
    for rows in others:
        seen = [row["val_accuracy"] for row in rows if row["share"] <= share]
        if seen and rows[-1]["share"] >= share:
            averages.append(sum(seen) / len(seen))
    best = max(row["val_accuracy"] for row in history)
    return len(averages) >= ENOUGH and best < median(averages)
