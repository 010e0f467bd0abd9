"""The space of recipes that a search draws from: parameters, their values, and when they count.

A parameter is a field of `Recipe` or of a strategy, under its own name. That of a strategy counts
where the strategy that was drawn has it, that of a hidden layer where there is one. So a method
that comes later needs one line in `DEFAULT`, or none: a space may name any field.
"""

import difflib
import random
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import keras_tuner as kt
import yaml
from keras_tuner.src.engine.conditions import Parent

from tfinetune.data import get_policy
from tfinetune.errors import DataError, RecipeError, SearchError
from tfinetune.recipe import Recipe
from tfinetune.search.domains import Choice, Domain, Range, read_domain
from tfinetune.training.phase import check_head
from tfinetune.training.strategies import STRATEGIES, build_strategy

DEFAULT: dict[str, Any] = {
    "strategy": ["lpft", "head"],
    "trainable": ["all", "-4:", "-2:"],
    "head_units": [0, 128, 512],
    "head_activation": ["relu", "gelu"],
    "dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
    "optimizer": ["adamw"],
    "learning_rate": {"low": 1e-4, "high": 3e-3, "log": True},
    "layer_decay": {"low": 0.6, "high": 1.0, "step": 0.1},
    "weight_decay": {"low": 1e-4, "high": 0.1, "log": True},
    "label_smoothing": [0.0, 0.1],
    "batch_norm": ["frozen", "adapt"],
    "augmentation": ["light", "standard", "strong", "none"],
    "batch_size": [16, 32, 64],
}

# What the trials must share, or their scores could not be compared.
_SHARED = {
    "data",
    "validation",
    "test",
    "seed",
    "decoder_version",
    "distribute",
    "trust",
    "strategy_parameters",
}


class Space:
    """Which recipes there are to choose from.

    Args:
        **domains: for each parameter that varies or is fixed: a value, a list of values,
            `{"low": 1e-5, "high": 1e-3, "log": True}`, or `{"values": [...], "when": {...}}`. What
            is not named stays as the recipe that the search starts from has it.

    Attributes:
        domains: `Choice` or `Range` by name.

    Raises:
        SearchError: if a name is neither a field of `Recipe` nor of a strategy, if what it may be
            is not said as above, or if a value is not valid or can never count.

    Example:
        >>> import tfinetune as ft
        >>> space = ft.search.Space.default().replace(dropout=0.3, batch_size=[16, 32])
        >>> space.domains["dropout"].values
        (0.3,)
    """

    def __init__(self, **domains: Any) -> None:
        self.domains: dict[str, Domain] = {}
        for name, domain in domains.items():
            self.domains[name] = _read(name, domain)
        for name, domain in self.domains.items():
            for parent, values in domain.when.items():
                if parent not in self.domains or parent == name:
                    raise SearchError(
                        f"{name} counts when {parent} has certain values, and {parent} is not in "
                        f"the space. Add it, or leave `when` out."
                    )
                never = [value for value in values if not self.domains[parent].holds(value)]
                if never:
                    raise SearchError(
                        f"{name} counts when {parent} is {never[0]!r}, which is not one of the "
                        f"values that {parent} may have."
                    )

    @classmethod
    def default(cls, recipe: Recipe | None = None) -> "Space":
        """Return the space that a search has without being told.

        Args:
            recipe: that the search starts from. What it has and the space lacks is added, so that
                the first trial is this recipe; None adds nothing.

        Raises:
            RecipeError: if what the recipe has does not go together.
        """
        space = cls(**DEFAULT)
        if recipe is None:
            return space
        recipe = _completed(recipe)
        return cls(**{n: domain.around(_value(recipe, n)) for n, domain in space.domains.items()})

    @classmethod
    def load(cls, path: str | Path) -> "Space":
        """Read a space from YAML.

        Raises:
            SearchError: if the file cannot be read or is no space.
        """
        try:
            domains = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SearchError(f"Could not read the space {path}: {error.strerror}.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SearchError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
        if not isinstance(domains, dict):
            raise SearchError(f"{path} is not a space: it holds {type(domains).__name__}.")
        return cls(**{str(name): domain for name, domain in domains.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return what `Space(**…)` and YAML take."""
        return {
            name: domain.model_dump(mode="json", exclude_defaults=True)
            for name, domain in self.domains.items()
        }

    def replace(self, **domains: Any) -> "Space":
        """Return the space with some parameters fixed, restricted or added.

        What can no longer count, such as parameters of other strategies, is left out.
        """
        given = {name: _read(name, domain) for name, domain in domains.items()}
        kept: dict[str, Domain] = {}
        for name in self._ordered():
            domain = self.domains[name].narrowed({**kept, **given})
            strategies = given["strategy"].values if "strategy" in given else STRATEGIES
            if name in given or domain is None or not any(_takes(s, name) for s in strategies):
                continue
            kept[name] = domain
        return Space(**kept, **given)

    def hyperparameters(self, base: Recipe) -> kt.HyperParameters:
        """Return the space as KerasTuner's; its values are those of the first trial.

        That is `base`, as far as the space has it: what a space restricts or fixes holds for the
        first trial too, which then has the nearest of a range and the first of other values.

        Args:
            base: what the search starts from.

        Raises:
            SearchError: if no combination is a recipe, or parameters wait for each other.
        """
        hp = kt.HyperParameters()
        for name in self._ordered():
            domain = self.domains[name]
            conditions = self._conditions(name, base)
            if all(values for _, values in conditions):
                parents = [
                    Parent(parent, [self.domains[parent].encode(value) for value in values])
                    for parent, values in conditions
                ]
                hp.merge([domain.parameter(name, domain.nearest(_value(base, name)), parents)])
        self._check_some_are_recipes(hp, base)
        return hp

    def recipe(self, values: Mapping[str, Any], base: Recipe) -> Recipe:
        """Return the recipe of one trial.

        Args:
            values: of KerasTuner's hyperparameters; names that are not in the space count for
                nothing. A parameter of the space without a value does not count here, and has the
                default of the recipe or strategy.
            base: has everything that the space does not name.

        Raises:
            RecipeError: if these values do not go together.
        """
        drawn = {
            name: domain.decode(values[name])
            for name, domain in self.domains.items()
            if name in values
        }
        fields = {
            name: drawn.pop(name, field.default)
            for name, field in Recipe.model_fields.items()
            if name in self.domains
        }
        known = _parameters(fields.get("strategy", base.strategy))
        shared = {
            name: value
            for name, value in base.strategy_parameters.items()
            if name in known and name not in self.domains
        }
        return _completed(base.replace(**fields, strategy_parameters={**shared, **drawn}))

    def _conditions(self, name: str, base: Recipe) -> list[tuple[str, list[Any]]]:
        conditions = [(parent, list(values)) for parent, values in self.domains[name].when.items()]
        given = self.domains.get("strategy", Choice(values=(base.strategy,))).values
        fitting = [strategy for strategy in given if _takes(strategy, name)]
        if not fitting:
            raise SearchError(
                f"The strategies of this space ({', '.join(given)}) have no parameter {name!r}."
            )
        if len(fitting) < len(given):
            conditions.append(("strategy", fitting))
        sizes = self.domains.get("head_units")
        if name == "head_activation" and isinstance(sizes, Choice):
            conditions.append(("head_units", [size for size in sizes.values if size]))
        return conditions

    def _ordered(self) -> list[str]:
        """Return the names, each behind those that it depends on."""
        first = ("strategy", "head_units")  # others depend on these without `when`, too
        waiting = sorted(self.domains, key=lambda name: name not in first)
        ordered: list[str] = []
        while waiting:
            ready = [n for n in waiting if set(self.domains[n].when) <= set(ordered)]
            if not ready:
                raise SearchError(f"{', '.join(waiting)} count only when each other has a value.")
            ordered.append(ready[0])
            waiting.remove(ready[0])
        return ordered

    def _check_some_are_recipes(self, hp: kt.HyperParameters, base: Recipe) -> None:
        reason = None
        for values in chain([hp.values], _samples(hp, count=200)):
            try:
                self.recipe(values, base)
            except RecipeError as error:
                reason = error
            else:
                return
        raise SearchError(f"No combination in the space is a recipe. One of them: {reason}")


def _samples(hp: kt.HyperParameters, *, count: int) -> Iterator[dict[str, Any]]:
    seeds = random.Random(0)
    for _ in range(count):
        drawn = kt.HyperParameters()
        for parameter in hp.space:
            drawn.merge([parameter])
            if drawn.is_active(parameter):
                drawn.values[parameter.name] = parameter.random_sample(seeds.random())
        yield drawn.values


def _read(name: str, domain: Any) -> Domain:
    """Return what a parameter may be.

    Raises:
        SearchError: if there is none of this name, or a value is not valid.
    """
    if name not in _known():
        closest = difflib.get_close_matches(name, _known(), n=3)
        told = "Closest: " if closest else "Known: "
        told += ", ".join(closest or sorted(_known()))
        raise SearchError(f"There is no parameter {name!r} to search over. {told}.")
    domain = read_domain(name, domain)
    if isinstance(_default(name), float):
        if isinstance(domain, Choice):
            domain = Choice(values=tuple(map(_number, domain.values)), when=domain.when)
        else:
            bounds = {"low": float(domain.low), "high": float(domain.high)}
            domain = read_domain(name, {**domain.model_dump(), **bounds})
    elif isinstance(domain, Range) and domain.step is not None and domain.step % 1:
        raise SearchError(f"{name} is a whole number, so its step must be one; got {domain.step}.")
    for value in domain.values if isinstance(domain, Choice) else (domain.low, domain.high):
        _check_value(name, value)
    return domain


def _number(value: Any) -> Any:
    """Return the number that a text is: to YAML `3e-4` is none, for want of a point."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _check_value(name: str, value: Any) -> None:
    """Refuse a value that neither a recipe nor any strategy may have."""
    if name in Recipe.model_fields:
        makes = [lambda **field: Recipe(data="photos", **field)]
    else:
        owners = [strategy for strategy in STRATEGIES if name in _parameters(strategy)]
        makes = [lambda owner=owner, **field: build_strategy(owner, field) for owner in owners]
    for make in makes:
        try:
            made = make(**{name: value})
            if name == "augmentation":  # a recipe takes any text for one
                get_policy(made.augmentation)
        except (RecipeError, DataError) as error:
            reason = error
        else:
            return
    raise SearchError(f"{name} may not be {value!r}. {reason}")


def _takes(strategy: str, name: str) -> bool:
    """Return whether a parameter counts under a strategy."""
    if name in _parameters(strategy):
        return True
    if name in ("head_units", "head_activation"):
        phases = STRATEGIES[strategy]().phases(("stem", "head"), None)
        return all(phase.solver != "logistic" for phase in phases)  # solves for a linear head
    return name in Recipe.model_fields


def _completed(recipe: Recipe) -> Recipe:
    """Return a recipe with every parameter of its strategy.

    Raises:
        RecipeError: if what it has does not go together.
    """
    strategy = build_strategy(recipe.strategy, recipe.strategy_parameters)
    check_head(strategy.phases(("stem", "head"), None), hidden=recipe.head_units > 0)
    return recipe.replace(strategy_parameters=strategy.parameters())


def _known() -> set[str]:
    of_strategies = {name for strategy in STRATEGIES for name in _parameters(strategy)}
    return (set(Recipe.model_fields) | of_strategies) - _SHARED


def _parameters(strategy: str) -> Mapping[str, Any]:
    if strategy not in STRATEGIES:
        raise SearchError(f"There is no strategy {strategy!r}. Known: {', '.join(STRATEGIES)}.")
    return STRATEGIES[strategy].model_fields


def _value(base: Recipe, name: str) -> Any:
    """Return the value that a recipe has for a parameter, or that its first strategy starts at."""
    if name in Recipe.model_fields:
        value = getattr(base, name)
        is_square = name == "image_size" and value and value[0] == value[1]
        return value[0] if is_square else value
    return base.strategy_parameters.get(name, _default(name, base.strategy))


def _default(name: str, *strategies: str) -> Any:
    """Return what a field of recipes has by itself, or a parameter in the first that has it."""
    if name in Recipe.model_fields:
        return Recipe.model_fields[name].default
    owners = [*strategies, *STRATEGIES]
    return next(_parameters(s)[name].default for s in owners if name in _parameters(s))
