"""Layer rules: one syntax that says which layers train, applied by flags and then checked.

"all"  "head"  "none"          everything, the head, nothing
"stage_3"  "stage_3:"          a group, a range of groups ("stage_3:" runs through the head)
"-2:"                          at most the last 2 groups
"*/conv*"  "re:^block_1[0-6]_" a glob or a regular expression on the layer's path
"!stage_1"                     any of these, negated
["all", "!stem"]               a list; later rules win
"""

import contextlib
import difflib
import fnmatch
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import keras

from tfinetune.assembly import Assembly
from tfinetune.backbones.groups import is_batch_norm
from tfinetune.errors import TrainablePlanError, UnknownLayerError
from tfinetune.inference import noise, silenced

Rules = str | Sequence[str]
BatchNormPolicy = Literal["frozen", "adapt"]


@dataclass(frozen=True)
class PlanRow:
    """One layer of the plan: where it is, whether it trains, how fast."""

    group: str
    layer: str
    kind: str
    parameters: int
    trainable: bool
    learning_rate: float | None = None


@dataclass(frozen=True)
class Plan:
    """Which layers train. `apply` sets the flags and checks what Keras made of them."""

    assembly: Assembly
    trainable: frozenset[int]  # id() of layers: paths repeat between nested models
    batch_norm: BatchNormPolicy

    def trains(self, layer: keras.Layer) -> bool:
        """Whether a layer's own weights are updated under this plan."""
        if is_batch_norm(layer) and self.batch_norm == "frozen":
            return False
        return id(layer) in self.trainable

    def apply(self) -> None:
        """Set every layer's `trainable` flag and verify the result.

        Raises:
            TrainablePlanError: if Keras reports other trainable variables than planned.
        """
        self.assembly.model.trainable = True
        expected: set[int] = set()
        for layers in groups_of(self.assembly).values():
            for layer in layers:
                trains = self.trains(layer)
                for leaf in _with_sublayers(layer):
                    leaf.trainable = trains
                if trains:
                    expected.update(id(v) for v in layer.trainable_variables)
        found = {id(v): v for v in self.assembly.model.trainable_variables}
        wrong = [v.path for key, v in found.items() if key not in expected]
        missing = len(expected - found.keys())
        if wrong or missing:
            raise TrainablePlanError(
                f"The trainable plan did not hold: {len(wrong)} variables train that should not "
                f"({', '.join(wrong[:5])}) and {missing} do not that should. This is a layer "
                "that overrides `trainable`; leave it out of the rule."
            )

    def is_frozen(self, operation: keras.Operation) -> bool:
        """Whether an operation maps equal inputs to equal outputs all through training.

        It trains nothing, its BatchNorms keep their statistics, and it draws nothing at random once
        `frozen_layers_deterministic` is entered. A nested model is frozen if all it holds is.
        """
        if not isinstance(operation, keras.Layer):
            return True
        return not any(
            (self.trains(layer) and layer.variables)
            or (layer._seed_generators and not (id(layer) in self._silenced and noise(layer)))
            for layer in _with_sublayers(operation)
        )

    @contextlib.contextmanager
    def frozen_layers_deterministic(self) -> Iterator[None]:
        """Switch off dropout and noise of frozen layers: they do the same whether cached or not."""
        with silenced(self._silenced.values()):
            yield

    @functools.cached_property
    def _silenced(self) -> dict[int, keras.Layer]:
        return {
            id(leaf): leaf
            for layers in groups_of(self.assembly).values()
            for layer in layers
            if id(layer) not in self.trainable
            for leaf in _with_sublayers(layer)
        }


def groups_of(assembly: Assembly) -> dict[str, tuple[keras.Layer, ...]]:
    """Return the ordered groups `stem`, `stage_1` … `head` with their layers."""
    groups = {group.name: tuple(group.layers) for group in assembly.backbone.groups}
    return {**groups, "head": assembly.head_layers}


def resolve(rules: Rules, assembly: Assembly, *, batch_norm: BatchNormPolicy = "frozen") -> Plan:
    """Turn rules into a plan.

    Args:
        rules: one rule or several; later rules win; nothing trains before the first.
        assembly: the model that the rules speak of.
        batch_norm: `frozen` keeps every BatchNorm in inference mode with its pretrained
            statistics and scale, `adapt` trains those that the rules name.

    Raises:
        UnknownLayerError: if a rule matches no layer, with the closest names.
    """
    groups = groups_of(assembly)
    trainable: set[int] = set()
    for rule in [rules] if isinstance(rules, str) else rules:
        positive = rule.removeprefix("!")
        matched = {id(layer) for layer in _match(positive, groups)}
        trainable = trainable - matched if rule.startswith("!") else trainable | matched
    return Plan(assembly, frozenset(trainable), batch_norm)


def trainable_plan(plan: Plan, rates: dict[str, float] | None = None) -> list[PlanRow]:
    """List every layer that has weights, with its state, rate and parameter count.

    Args:
        plan: what `resolve` returned.
        rates: learning rate of each group, where known.
    """
    return [
        PlanRow(
            group=name,
            layer=layer.name,
            kind=type(layer).__name__,
            parameters=layer.count_params(),
            trainable=plan.trains(layer),
            learning_rate=rates.get(name) if rates and plan.trains(layer) else None,
        )
        for name, layers in groups_of(plan.assembly).items()
        for layer in layers
        if layer.weights
    ]


def _match(rule: str, groups: dict[str, tuple[keras.Layer, ...]]) -> list[keras.Layer]:
    every = [layer for layers in groups.values() for layer in layers]
    names = list(groups)
    if rule == "all":
        return every
    if rule == "none":
        return []
    if rule in groups:
        return list(groups[rule])
    start, colon, stop = rule.partition(":")
    if rule.endswith(":") and start.removeprefix("-").isdecimal() and int(start) < 0:
        return [layer for name in names[int(start) :] for layer in groups[name]]
    if colon and start != "re":
        for bound in filter(None, (start, stop)):
            if bound not in groups:
                raise _unknown(rule, bound, names)
        first = names.index(start) if start else 0
        last = names.index(stop) if stop else len(names) - 1
        if first > last:
            raise UnknownLayerError(
                f"The layer rule {rule!r} is empty: {start} comes after {stop}. "
                f"The order is {', '.join(names)}."
            )
        return [layer for name in names[first : last + 1] for layer in groups[name]]
    if start == "re":
        try:
            pattern = re.compile(stop)
        except re.error as error:
            raise UnknownLayerError(
                f"The layer rule {rule!r} is not a regular expression: {error}."
            ) from None
        matched = [x for x in every if pattern.search(_path(x)) or pattern.search(x.name)]
    else:
        matched = [
            x for x in every if fnmatch.fnmatchcase(_path(x), rule) or fnmatch.fnmatch(x.name, rule)
        ]
    if not matched:
        raise _unknown(rule, stop if start == "re" else rule, names + [x.name for x in every])
    return matched


def _path(layer: keras.Layer) -> str:
    return getattr(layer, "path", None) or layer.name


def _with_sublayers(layer: keras.Layer) -> list[keras.Layer]:
    # MultiHeadAttention forgets its own flag on reload, its sublayers do not: flag them all.
    return layer._flatten_layers(include_self=True, recursive=True)


def _unknown(rule: str, word: str, names: list[str]) -> UnknownLayerError:
    closest = difflib.get_close_matches(word, names, n=3, cutoff=0.3) or names[:5]
    return UnknownLayerError(
        f"No layer matches {rule!r}. Closest: {', '.join(closest)}. `tfinetune inspect` lists them."
    )
