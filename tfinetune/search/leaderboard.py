"""What trials gave, from the best to the failed, and those that no other beats in every respect."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfinetune.evaluation.formatting import duration
from tfinetune.search.oracles import OBJECTIVES


@dataclass(frozen=True)
class Result:
    """What a trial gave.

    Attributes:
        trial: its id; that of the default recipe is the first.
        status: "completed", "pruned" (no hope), "paused" (Hyperband may go on), "stopped" (no time
            left) or "failed".
        values: drawn from the space.
        metrics: by objective, where it was measured.
        seconds: that the trial took, of all that it waited for; for the objective "seconds" its
            training alone counts, with that of the trials that it goes on from.
        history: a row for every epoch.
        examples: that validation counted.
        reason: why it failed, or how its training went wrong.
    """

    trial: str
    status: str
    values: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    examples: int = 0
    reason: str = ""

    @property
    def standard_error(self) -> float:
        """The standard error of its validation accuracy."""
        return standard_error(self.metrics["val_accuracy"], self.examples)


def rank_results(
    results: Sequence[Result], objective: str, *others: str, margin: float = 0.0
) -> list[Result]:
    """Sort results, the winner first and failed ones last.

    Args:
        results: in any order.
        objective: that decides.
        *others: that decide, in their order, between equal ones; then validation loss does, whether
            nothing is left to train, and age.
        margin: by how many standard errors of its accuracy the best must lead the default recipe,
            which is the winner otherwise: the best of many trials owes a part of its lead to luck
            (Breiman et al. 1984, "Classification and Regression Trees", one standard error). It
            applies to "val_accuracy" alone.
    """

    def key(result: Result) -> tuple:
        if result.status == "failed":
            return (1, [], 0.0, False, result.trial)
        costs = [_cost(result, name) for name in (objective, *others)]
        loss = result.metrics.get("val_loss", 0.0)
        return (0, costs, loss, result.status != "completed", result.trial)

    ranked = sorted(results, key=key)
    if objective == "val_accuracy" and ranked and ranked[0].status != "failed":
        default, best = default_of(ranked), ranked[0]
        if default and default.metrics and lead(best, default) < margin * best.standard_error:
            ranked.remove(default)
            ranked.insert(0, default)
    return ranked


def default_of(results: Sequence[Result]) -> Result | None:
    """Return the result of the default recipe, which is the first trial."""
    return next((result for result in results if int(result.trial) == 0), None)


def lead(one: Result, other: Result) -> float:
    """Return by how much a result's validation accuracy is above another's."""
    return _cost(other, "val_accuracy") - _cost(one, "val_accuracy")


def standard_error(accuracy: float, examples: int) -> float:
    """Return the standard error of an accuracy on so many examples; 0 where none was counted.

    Two right and two wrong ones are added, so that of 10 in 10 there is one, too (Agresti and Coull
    1998, "Approximate Is Better than Exact for Interval Estimation of Binomial Proportions").
    """
    if not examples:
        return 0.0
    share = (accuracy * examples + 2) / (examples + 4)
    return math.sqrt(share * (1 - share) / (examples + 4))


def verdict(leaderboard: Sequence[Result], objective: str) -> str:
    """Say whether the winner of an objective, which comes first, beat the default recipe."""
    winner, default = leaderboard[0], default_of(leaderboard)
    if winner is not default:
        said = f"Trial {winner.trial} is the winner."
        if default and default.status == "failed":
            said += f" The default recipe failed, so none was compared with it. {default.reason}"
        return said
    others = [result for result in leaderboard if result.status != "failed"]
    best = max(others, key=lambda result: lead(result, winner))
    if objective != "val_accuracy" or lead(best, winner) <= 0:
        return "The default recipe is the winner: no trial was better."
    return (
        f"The default recipe is the winner: trial {best.trial} leads it by "
        f"{100 * lead(best, winner):.1f} points on {best.examples} validation photos, where the "
        f"standard error is {100 * best.standard_error:.1f}. That may be luck; --margin 0 takes "
        "the best all the same."
    )


def pareto_front(results: Sequence[Result], objectives: Sequence[str]) -> list[Result]:
    """Return the results that none beats: as good in every objective and better in one."""
    costs = {
        result.trial: [_cost(result, name) for name in objectives]
        for result in results
        if result.status != "failed"
    }

    def beaten(cost: list[float]) -> bool:
        return any(
            other != cost and all(o <= c for o, c in zip(other, cost, strict=True))
            for other in costs.values()
        )

    return [r for r in results if r.trial in costs and not beaten(costs[r.trial])]


def describe(result: Result, results: Sequence[Result]) -> str:
    """Say in what a trial differs from the first of all, the default recipe, or what went wrong."""
    if result.status == "failed":
        return result.reason
    first = default_of(results)
    default = first.values if first else {}
    changed = {name: v for name, v in result.values.items() if v != default.get(name)}
    told = ", ".join(f"{name} {short(value)}" for name, value in changed.items())
    return "; ".join(filter(None, [told or "the default recipe", result.reason]))


def outcome(result: Result, objective: str) -> str:
    """Say in a line what a trial gave."""
    if result.status == "failed":
        return f"trial {result.trial}: failed. {result.reason}"
    reached = f"{objective} {measured(result, objective)}"
    return f"trial {result.trial}: {result.status}, {reached} after {duration(result.seconds)}"


def measured(result: Result, objective: str) -> str:
    """Return what a trial reached in four digits, or whole; nothing if it failed."""
    if not result.metrics:
        return ""
    value = result.metrics[objective]
    return f"{value:,.0f}" if objective == "parameters" else f"{value:.4g}"


def short(value: Any) -> str:
    """Return a drawn value in few characters: a file by its name and its folder's."""
    if isinstance(value, float):
        return f"{value:.3g}"
    path = Path(str(value))
    return str(Path(*path.parts[-2:])) if path.is_absolute() else str(value)


def _cost(result: Result, objective: str) -> float:
    if objective == "seconds" and result.status != "completed":
        return math.inf  # what it took so far does not tell what all of it would take
    sign = -1 if OBJECTIVES[objective] == "max" else 1
    return sign * round(result.metrics[objective], 6)  # Keras counts in float32
