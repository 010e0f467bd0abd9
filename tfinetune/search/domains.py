"""What a parameter of a search may be: one of several values, or a number in a range."""

import json
import math
from collections.abc import Mapping
from typing import Any, Self

from keras_tuner.engine import hyperparameters
from keras_tuner.engine.hyperparameters import HyperParameter
from keras_tuner.src.engine.conditions import Parent
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from tfinetune.errors import SearchError
from tfinetune.recipe import explain_validation

Conditions = list[Parent]

MOST_STEPS = 10_000
"""Values that the steps of a range may lead to: every trial's file has them all."""


class _Conditional(BaseModel):
    """What both kinds share: the parameters whose values make one count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    def narrowed(self, others: "Mapping[str, Domain]") -> Self | None:
        """Return it with the conditions that can hold beside `others`, None if one never can."""
        when = {
            parent: tuple(value for value in values if others[parent].holds(value))
            for parent, values in self.when.items()
            if parent in others
        }
        can_count = all(when.values()) and len(when) == len(self.when)
        return self.model_copy(update={"when": when}) if can_count else None


class Choice(_Conditional):
    """One of several values; of a single one, a parameter that is fixed.

    Attributes:
        values: any that YAML can write; whole numbers beside fractions become fractions.
        when: parameters whose values make this one count, `{"strategy": ["head"]}`.
    """

    values: tuple[Any, ...] = Field(min_length=1)

    @field_validator("values")
    @classmethod
    def _distinct_and_of_one_kind(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        mixed = {type(value) for value in values} == {int, float}
        values = tuple(map(float, values)) if mixed else values
        return tuple({json.dumps(value, default=str): value for value in values}.values())

    def encode(self, value: Any) -> str | int | float:
        """Return what stands for a value in KerasTuner, which mixes no types and knows no lists."""
        kinds = {type(each) for each in self.values}
        if kinds == {float} and _is_number(value):
            return float(value)
        return value if kinds in ({str}, {int}, {float}) else json.dumps(value)

    def decode(self, code: str | int | float) -> Any:
        """Return the value that a code stands for."""
        return {self.encode(value): value for value in self.values}[code]

    def nearest(self, value: Any) -> Any:
        """Return `value` if it is one of these, else the first."""
        code = self.encode(value)
        return next((each for each in self.values if self.encode(each) == code), self.values[0])

    def holds(self, value: Any) -> bool:
        """Return whether `value` is one of these."""
        return self.encode(value) in map(self.encode, self.values)

    def around(self, value: Any) -> "Choice":
        """Return a choice that has `value` too: before the others, a number among them."""
        if value in self.values:
            return self
        values = (value, *self.values)
        # Of numbers the Bayesian oracle takes neighbours to be alike.
        values = tuple(sorted(values)) if all(map(_is_number, values)) else values
        return Choice(values=values, when=self.when)

    def parameter(self, name: str, default: Any, conditions: Conditions) -> HyperParameter:
        """Return the parameter as KerasTuner has it."""
        codes = [self.encode(value) for value in self.values]
        if len(codes) == 1:
            return hyperparameters.Fixed(name, codes[0], conditions=conditions)
        code = self.encode(default)
        return hyperparameters.Choice(name, codes, default=code, conditions=conditions)


class Range(_Conditional):
    """A number between two, both included; whole where both are.

    Attributes:
        low, high: bounds.
        step: between values: added, or with `log` multiplied by. None allows any value. The
            default recipe's is one of them, wherever it is.
        log: whether to draw evenly in logarithm.
        when: see `Choice`.
    """

    low: int | FiniteFloat
    high: int | FiniteFloat
    step: int | FiniteFloat | None = Field(default=None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 with log")
        if self.log and self.step is not None and self.step <= 1:
            raise ValueError("step multiplies where log is true, so it must be above 1")
        if self.step is not None and not self._is_whole and self._step_count() > MOST_STEPS:
            raise ValueError(
                f"step leads to more than {MOST_STEPS:,} values; leave it out to allow any"
            )
        return self

    def encode(self, value: Any) -> float:
        """Return the value."""
        return value

    def decode(self, code: float) -> float:
        """Return the value."""
        return code

    def holds(self, value: Any) -> bool:
        """Return False: of a range no single value can be relied on to be drawn."""
        return False

    def nearest(self, value: Any) -> float:
        """Return the closest value in the range; the lowest to what is no number."""
        if not _is_number(value):
            return self.low
        return min(max(round(value) if self._is_whole else value, self.low), self.high)

    def around(self, value: Any) -> "Choice | Range":
        """Return the range widened to hold `value`; where no range can, that value alone."""
        if not _is_number(value) or (self.log and value <= 0):
            return Choice(values=(value,), when=self.when)
        bounds = {"low": min(self.low, value), "high": max(self.high, value)}
        return self.model_copy(update=bounds)

    def parameter(self, name: str, default: Any, conditions: Conditions) -> HyperParameter:
        """Return the parameter as KerasTuner has it."""
        if self.step is not None and not self._is_whole:
            # KerasTuner counts steps with `//`, and 0.5 // 0.1 is 4: it would take values for
            # their neighbours, lose the last, and draw 0.30000000000000004 beside 0.3.
            steps = Choice(values=self._steps()).around(default)
            return steps.parameter(name, default, conditions)
        kind = hyperparameters.Int if self._is_whole else hyperparameters.Float
        return kind(
            name,
            self.low,
            self.high,
            step=self.step,
            sampling="log" if self.log else "linear",
            default=default,
            conditions=conditions,
        )

    def _step_count(self) -> int:
        if self.log:
            return int(math.log(self.high / self.low, self.step) + 1e-6)
        return int((self.high - self.low) / self.step + 1e-6)

    def _steps(self) -> tuple[float, ...]:
        """Return the values that steps lead to, without the noise of adding them."""
        numbers = range(self._step_count() + 1)
        if self.log:
            values = [self.low * self.step**number for number in numbers]
        else:
            values = [self.low + self.step * number for number in numbers]
        return tuple(float(f"{value:.12g}") for value in values)

    @property
    def _is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


Domain = Choice | Range


def read_domain(name: str, domain: Any) -> Domain:
    """Return what a parameter may be, from a value, a list, or the fields of a domain.

    Raises:
        SearchError: if it is none of these.
    """
    if isinstance(domain, Choice | Range):
        return domain
    try:
        if isinstance(domain, Mapping):
            given = dict(domain)
            if isinstance(given.get("when"), Mapping):
                given["when"] = {k: _listed(v) for k, v in given["when"].items()}
            return (Choice if "values" in given else Range)(**given)
        return Choice(values=_listed(domain))
    except ValidationError as error:
        raise SearchError(explain_validation(error, f"What {name} may be")) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, list | tuple) else (values,)
