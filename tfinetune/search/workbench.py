"""What the trials of a process share: backbones, photos, features."""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import keras
import numpy as np

from tfinetune.array_store import ArrayStore
from tfinetune.backbones import Backbone
from tfinetune.backbones.graph import is_functional
from tfinetune.data import Splits
from tfinetune.errors import SearchError
from tfinetune.finetuner import FineTuner
from tfinetune.recipe import Recipe
from tfinetune.reporting import Advance, Reporter
from tfinetune.training import FeatureCache
from tfinetune.workflow.prepare import cut, open_backbone, read_photos, tuner_options

HELD = 3
"""Backbones, and sizes of photos, that stay in memory."""

_DIVISION = ("data", "aspect", "validation", "test", "seed")

T = TypeVar("T")


class Workbench:
    """Opens each backbone and reads the photos at each size once.

    Args:
        cache: outputs of frozen layers; None takes the one that every `FineTuner` has.
        reporter: shows progress; None is silent.
    """

    def __init__(
        self, cache: FeatureCache | None = None, *, reporter: Reporter | None = None
    ) -> None:
        self.reporter = reporter or Reporter()
        self.cache = cache or FeatureCache(ArrayStore(), reporter=self.reporter)
        self._news = _News(self.reporter)
        self._backbones: OrderedDict[Any, _Opened] = OrderedDict()
        self._splits: OrderedDict[Any, Splits] = OrderedDict()
        self._fastest: str | None = None

    def backbone(self, recipe: Recipe) -> Backbone:
        """Return a recipe's backbone with its pretrained weights."""

        def load() -> _Opened:
            opened = open_backbone(recipe, recipe.backbone)
            splits = self.splits(recipe, opened.image_size)
            opened = cut(recipe, opened, splits, self.reporter, cache=self.cache)
            return _Opened(opened, opened.model.get_weights(), _calls(opened.model))

        fields = ("backbone", "weights", "image_size", "features", "input_range", "distribute")
        key = (*_named(recipe, fields), *_named(recipe, _DIVISION))
        opened = _held(self._backbones, key, load)
        opened.backbone.model.set_weights(opened.pretrained)  # the last trial may have trained them
        for nodes, count in opened.calls:
            del nodes[count:]  # they would keep the head of every past trial alive
        return opened.backbone

    def splits(self, recipe: Recipe, image_size: tuple[int, int]) -> Splits:
        """Return a recipe's photos at the size of its backbone."""
        key = (image_size, *_named(recipe, _DIVISION))
        return _held(self._splits, key, lambda: read_photos(recipe, image_size, self.reporter))

    def tuner(self, recipe: Recipe) -> tuple[FineTuner, Splits]:
        """Return what trains a recipe, and on what.

        Raises:
            SearchError: if no photo is held out to compare trials by.
        """
        backbone = self.backbone(recipe)
        splits = self.splits(recipe, backbone.image_size)
        if splits.validation is None:
            raise SearchError(
                "A search compares its trials on validation photos, and none are held out. "
                "Give --validation a share such as 0.15."
            )
        options = {**tuner_options(recipe), "cache": self.cache, "reporter": self._news}
        if recipe.precision == "auto" and self._fastest is not None:
            options["precision"] = self._fastest  # it is a matter of the machine: measured once
        tuner = FineTuner(backbone, splits.spec, **options)
        if recipe.precision == "auto":
            self._fastest = tuner.precision.name
        return tuner, splits


class _News(Reporter):
    """Says no sentence twice: what holds for all trials is no news of each."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter
        self._said: set[str] = set()

    def say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._reporter.say(sentence)

    def bar(self, title: str) -> AbstractContextManager[Advance]:
        return self._reporter.bar(title)


@dataclass(frozen=True)
class _Opened:
    """A backbone, its pretrained weights, and how often each of its operations was called."""

    backbone: Backbone
    pretrained: list[np.ndarray]
    calls: list[tuple[list, int]]


def _named(recipe: Recipe, fields: tuple[str, ...]) -> tuple:
    return tuple(getattr(recipe, name) for name in fields)


def _calls(operation: keras.Operation) -> list[tuple[list, int]]:
    """Return the nodes of an operation and of all it holds, each list with its present length."""
    own = [(nodes, len(nodes)) for nodes in (operation._inbound_nodes, operation._outbound_nodes)]
    inner = operation.operations if is_functional(operation) else ()
    return [*own, *(call for each in inner for call in _calls(each))]


def _held(store: "OrderedDict[Any, T]", key: Any, load: Callable[[], T]) -> T:
    if key not in store:
        while len(store) >= HELD:
            store.popitem(last=False)
        store[key] = load()
    store.move_to_end(key)
    return store[key]
