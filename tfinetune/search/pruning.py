"""When a trial has no hope left."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

WARM_UP = 1 / 3
"""Share of a trial's epochs before which it is never judged: rates are still rising."""

ENOUGH = 4
"""Trials that must have come as far before one is judged by them."""


def can_prune(objectives: Sequence[str]) -> bool:
    """Return whether epochs tell how a trial will do, and one cut short gains nothing by it."""
    return objectives[0] in ("val_accuracy", "val_loss") and "seconds" not in objectives


def is_hopeless(
    history: Sequence[dict[str, Any]],
    others: Sequence[Sequence[dict[str, Any]]],
    *,
    objective: str = "val_accuracy",
) -> bool:
    """Return whether a trial's best epoch is worse than what half the others averaged by now.

    The median stopping rule of Golovin et al. 2017, "Google Vizier".

    Args:
        history: rows of the trial's epochs, with the objective, None where it was not finite, and
            `share`, the part of its epochs that is done, in (0, 1].
        others: such rows of trials that have ended.
        objective: "val_accuracy" or "val_loss".
    """

    def cost(row: dict[str, Any]) -> float:
        value = row[objective]
        return math.inf if value is None else value if objective == "val_loss" else -value

    if not history or history[-1]["share"] < WARM_UP:
        return False
    share = history[-1]["share"]
    averages = []
    for rows in others:
        seen = [cost(row) for row in rows if row["share"] <= share]
        if seen and rows[-1]["share"] >= share:
            averages.append(sum(seen) / len(seen))
    best = min(map(cost, history))
    return len(averages) >= ENOUGH and best > median(averages)
