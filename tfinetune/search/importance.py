"""How much each parameter of a search mattered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from tfinetune.search.leaderboard import Result

ENOUGH = 8
"""Trials below which nothing can be told."""


def importance(results: Sequence[Result], objective: str, *, seed: int = 0) -> dict[str, float]:
    """Return the share of each parameter in what a forest predicts of an objective.

    The forest learns the objective from the drawn values; the share is how much worse it fits them
    when the values of one parameter are shuffled (Breiman 2001, "Random Forests").

    Args:
        results: of trials; those that failed or ended early are left out.
        objective: in `OBJECTIVES`.
        seed: of forest and shuffling.

    Returns:
        Shares that sum to 1, the largest first; none where there are too few trials, nothing varies
        or nothing matters.
    """
    whole = trained_to_the_end(results)
    columns = {
        name: column
        for name in dict.fromkeys(name for result in whole for name in result.values)
        if np.unique(column := encode([result.values.get(name) for result in whole])).size > 1
    }
    if len(whole) < ENOUGH or not columns:
        return {}
    table = np.stack(list(columns.values()), axis=1)
    scores = np.array([result.metrics[objective] for result in whole])
    forest = RandomForestRegressor(200, min_samples_leaf=2, random_state=seed).fit(table, scores)
    shuffled = permutation_importance(forest, table, scores, n_repeats=10, random_state=seed)
    means = np.maximum(shuffled.importances_mean, 0)
    if not means.sum():
        return {}
    order = np.argsort(-means, kind="stable")
    names = list(columns)
    return {names[index]: float(means[index] / means.sum()) for index in order}


def trained_to_the_end(results: Sequence[Result]) -> list[Result]:
    """Return the results that can be held against each other: others had fewer epochs."""
    return [result for result in results if result.status == "completed"]


def encode(values: Sequence[Any]) -> np.ndarray:
    """Return numbers as they are and anything else by its place among all; NaN where it is None."""
    numeric = all(isinstance(value, int | float | None) for value in values)
    places = (
        {}
        if numeric
        else {v: i for i, v in enumerate(sorted({str(v) for v in values if v is not None}))}
    )
    return np.array(
        [
            np.nan if value is None else float(value) if numeric else float(places[str(value)])
            for value in values
        ]
    )
