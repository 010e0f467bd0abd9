"""What the trials of a process share: backbones, photos, features."""

import json
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
from filelock import FileLock

from tfinetune.array_store import ArrayStore
from tfinetune.backbones import Backbone
from tfinetune.backbones.graph import is_functional
from tfinetune.data import Splits
from tfinetune.errors import SearchError
from tfinetune.finetuner import FineTuner
from tfinetune.recipe import Recipe
from tfinetune.reporting import Advance, Reporter
from tfinetune.storage import write_json
from tfinetune.training import FeatureCache
from tfinetune.workflow.prepare import (
    backbone_key,
    cut,
    open_backbone,
    photos_key,
    read_photos,
    tuner_options,
)

HELD = 3
"""Backbones, and sizes of photos, that stay in memory."""

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

    def backbone(self, recipe: Recipe) -> Backbone:
        """Return a recipe's backbone with its pretrained weights."""

        def load() -> _Opened:
            opened = open_backbone(recipe, recipe.backbone)
            splits = self.splits(recipe, opened.image_size)
            opened = cut(recipe, opened, splits, self.reporter, cache=self.cache)
            return _Opened(opened, opened.model.get_weights(), _calls(opened.model))

        opened = _held(self._backbones, backbone_key(recipe), load)
        opened.backbone.model.set_weights(opened.pretrained)  # the last trial may have trained them
        for nodes, count in opened.calls:
            del nodes[count:]  # they would keep the head of every past trial alive
        return opened.backbone

    def splits(self, recipe: Recipe, image_size: tuple[int, int]) -> Splits:
        """Return a recipe's photos at the size of its backbone."""
        key = (image_size, *photos_key(recipe))
        return _held(self._splits, key, lambda: read_photos(recipe, image_size, self.reporter))

    def tuner(self, recipe: Recipe, *, precisions: Path | None = None) -> tuple[FineTuner, Splits]:
        """Return what trains a recipe, and on what.

        Args:
            recipe: to train.
            precisions: file with what `precision: auto` came to for each backbone. It is measured
                where the file does not say, so all that share the file, resumed or in other
                processes, train a backbone in the same precision.

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

        def build(precision: str) -> FineTuner:
            options = {**tuner_options(recipe), "precision": precision}
            return FineTuner(
                backbone, splits.spec, **options, cache=self.cache, reporter=self._news
            )

        precision = recipe.precision
        if precision == "auto" and precisions is not None:
            key = json.dumps(backbone_key(recipe))
            precision = agreed(precisions, key, lambda: build("auto").precision.name)
        return build(precision), splits


def agreed(file: Path, key: str, measure: Callable[[], T]) -> T:
    """Return what a file says of a key, in every process the same; measure it where it does not."""
    # One measures at a time: the others would slow it down, and might come to another answer.
    with FileLock(f"{file}.lock"):
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if key not in known:
            known[key] = measure()
            write_json(file, known)
        return known[key]


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
