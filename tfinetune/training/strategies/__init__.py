"""Ways to fine-tune, each a small object that lists phases.

To add one: write its module here, add its line to `STRATEGIES`, add it to the contract suite
(`tests/contracts/test_strategies.py`).
"""

from typing import Any

from pydantic import ValidationError

from tfinetune.errors import RecipeError
from tfinetune.recipe import explain_validation
from tfinetune.training.strategies.full import Full
from tfinetune.training.strategies.gradual_unfreezing import GradualUnfreezing
from tfinetune.training.strategies.head import Head
from tfinetune.training.strategies.linear_probe import LinearProbe
from tfinetune.training.strategies.lpft import LPFT
from tfinetune.training.strategies.strategy import Strategy

STRATEGIES: dict[str, type[Strategy]] = {
    "lpft": LPFT,
    "linear_probe": LinearProbe,
    "head": Head,
    "full": Full,
    "gradual_unfreezing": GradualUnfreezing,
}

__all__ = [
    "LPFT",
    "STRATEGIES",
    "Full",
    "GradualUnfreezing",
    "Head",
    "LinearProbe",
    "Strategy",
    "build_strategy",
]


def build_strategy(name: str, parameters: dict[str, Any]) -> Strategy:
    """Construct a strategy from what a recipe says.

    Raises:
        RecipeError: if the name or a parameter is unknown, or a value is out of range.
    """
    if name not in STRATEGIES:
        raise RecipeError(f"There is no strategy {name!r}. Known: {', '.join(STRATEGIES)}.")
    try:
        return STRATEGIES[name](**parameters)
    except ValidationError as error:
        raise RecipeError(explain_validation(error, f"The strategy {name}")) from None
