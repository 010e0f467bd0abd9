"""What trials gave, from the best to the failed, and those that no other beats in every respect."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        seconds: that the trial took.
        history: a row for every epoch.
        reason: why it failed.
    """

    trial: str
    status: str
    values: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""


def rank_results(results: Sequence[Result], objective: str) -> list[Result]:
    """Sort results by an objective, equal ones by validation loss and age, failed ones last."""

    def key(result: Result) -> tuple:
        if result.status == "failed":
            return (1, 0.0, 0.0, result.trial)
        cost = _cost(result, objective)
        return (0, cost, result.metrics.get("val_loss", 0.0), result.trial)

    return sorted(results, key=key)


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
    """Say in what a trial differs from the first of all, the default recipe; or why it failed."""
    if result.status == "failed":
        return result.reason
    default = next((other.values for other in results if int(other.trial) == 0), {})
    changed = {name: v for name, v in result.values.items() if v != default.get(name)}
    told = ", ".join(f"{name} {short(value)}" for name, value in changed.items())
    return told or "the default recipe"


def short(value: Any) -> str:
    """Return a drawn value in few characters: a file by its name."""
    return f"{value:.3g}" if isinstance(value, float) else Path(str(value)).name


def _cost(result: Result, objective: str) -> float:
    sign = -1 if OBJECTIVES[objective] == "max" else 1
    return sign * result.metrics[objective]
