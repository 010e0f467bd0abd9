"""Drawings of a search: parallel coordinates and learning curves, as SVG that lives in a page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfinetune.evaluation.plots import GRID, HELD_OUT, INK, MUTED, drawing, to_svg
from tfinetune.search.importance import encode
from tfinetune.search.leaderboard import Result, short

MISSING = -0.18
"""Height on an axis at which a trial passes that has no value for its parameter."""


def parallel_coordinates(results: Sequence[Result], objective: str) -> str:
    """Draw each trial as a line through its values to the objective; the winner stands out.

    Args:
        results: the best first, none failed.
        objective: on the last axis.

    Returns:
        An `<svg>` element.
    """
    names = [
        name
        for name in dict.fromkeys(name for result in results for name in result.values)
        if len({str(result.values.get(name)) for result in results}) > 1
    ]
    axes_values = {name: [result.values.get(name) for result in results] for name in names}
    axes_values[objective] = [result.metrics[objective] for result in results]
    heights = np.stack([_heights(values) for values in axes_values.values()], axis=1)
    with drawing(max(9.0, 1.15 * len(axes_values)), 3.2) as figure:
        axes = figure.add_subplot()
        places = np.arange(len(axes_values))
        for line in heights[:0:-1]:
            axes.plot(places, line, color=MUTED, linewidth=0.9, alpha=0.55)
        axes.plot(places, heights[0], color=HELD_OUT, linewidth=2.4, marker="o", markersize=3)
        for place, values in zip(places, axes_values.values(), strict=True):
            axes.axvline(place, color=GRID, linewidth=1, zorder=0)
            ticks = _ticks(values)
            if None in values:
                ticks.append((MISSING, "–"))
            for height, text in ticks:
                axes.annotate(
                    text, (place, height), xytext=(3, 2), textcoords="offset points",
                    fontsize=7, color=INK,
                )  # fmt: skip
        axes.set_xticks(places, list(axes_values), rotation=20, ha="right")
        axes.set_yticks([])
        axes.set_ylim(MISSING - 0.05, 1.12)
        axes.spines["left"].set_visible(False)
        description = f"Values of {len(results)} trials and the {objective} they reached"
        return to_svg(figure, prefix="parallel", description=description)


def learning_curves(results: Sequence[Result]) -> str:
    """Draw each trial's validation accuracy over the share of its epochs; the winner stands out.

    Args:
        results: the best first.

    Returns:
        An `<svg>` element.
    """
    with drawing(6.4, 3.2) as figure:
        axes = figure.add_subplot()
        for place, result in reversed(list(enumerate(results))):
            shares = [row["share"] for row in result.history]
            accuracies = [row.get("val_accuracy", np.nan) for row in result.history]
            style = {"color": MUTED, "linewidth": 0.9, "alpha": 0.55, "marker": "."}
            if place == 0:
                style = {"color": HELD_OUT, "linewidth": 2.4, "marker": "o", "markersize": 3}
            axes.plot(shares, accuracies, **style)
        axes.set_xlabel("share of the epochs")
        axes.set_ylabel("validation accuracy")
        description = f"Validation accuracy of {len(results)} trials while they were trained"
        return to_svg(figure, prefix="curves", description=description)


def _heights(values: Sequence[Any]) -> np.ndarray:
    """Return where on an axis of 0 to 1 each value lies, `MISSING` where there is none."""
    numbers = _spread(values)
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    heights = (numbers - low) / (high - low) if high > low else np.full(len(numbers), 0.5)
    return np.where(np.isnan(numbers), MISSING, heights)


def _spread(values: Sequence[Any]) -> np.ndarray:
    numbers = encode(values)
    wide = np.nanmin(numbers) > 0 and np.nanmax(numbers) > 30 * np.nanmin(numbers)
    return np.log(numbers) if wide else numbers


def _ticks(values: Sequence[Any]) -> list[tuple[float, str]]:
    """Return the ends of a numeric axis, or every value of another, with their heights."""
    heights = _heights(values)
    known = {
        short(value): height
        for value, height in zip(values, heights, strict=True)
        if value is not None
    }
    ordered = sorted(known.items(), key=lambda item: item[1])
    numeric = all(isinstance(value, int | float | None) for value in values)
    shown = [ordered[0], ordered[-1]] if numeric and len(ordered) > 1 else ordered
    return [(height, text) for text, height in shown]
