"""Choose backbones before any is trained: rank them by how their features suit the photos."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tfinetune.errors import SearchError, reason_of
from tfinetune.recipe import Recipe
from tfinetune.search.transferability import h_score, log_me, probe_accuracy
from tfinetune.search.workbench import Workbench
from tfinetune.training import Segment


@dataclass(frozen=True)
class Ranked:
    """How well a backbone suits a data set before any training.

    Attributes:
        backbone: as it was named.
        probe_accuracy: of a ridge classifier on its features, leave-one-out.
        log_me, h_score: see `transferability`.
        parameters: weights of the backbone.
        seconds: to open it, run it once over the training photos and score it; the first to need
            photos of a size reads them, too.
        reason: why it could not be ranked; then the figures are missing.
    """

    backbone: str
    probe_accuracy: float | None = None
    log_me: float | None = None
    h_score: float | None = None
    parameters: int | None = None
    seconds: float = 0.0
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON takes."""
        return asdict(self)


def rank_backbones(
    backbones: Sequence[str], recipe: Recipe, *, workbench: Workbench | None = None
) -> list[Ranked]:
    """Rank backbones by how well their features, as they are, suit a recipe's training photos.

    Args:
        backbones: files or names.
        recipe: of the data, the image size and the seed.
        workbench: gives its features to the trials that follow.

    Returns:
        The best first, by probe accuracy, then LogME; those that cannot be used last, each with
        its reason.

    Raises:
        SearchError: if none can be used.

    Example:
        >>> import tfinetune as ft
        >>> names = ["MobileNetV2", "EfficientNetV2B0"]
        >>> recipe = ft.Recipe(data="photos/")
        >>> ft.search.rank_backbones(names, recipe)  # doctest: +SKIP
    """
    workbench = workbench or Workbench()
    ranked = [_rank(name, recipe, workbench) for name in backbones]
    usable = [row for row in ranked if not row.reason]
    if not usable:
        reasons = "; ".join(f"{row.backbone}: {row.reason}" for row in ranked)
        raise SearchError(f"None of the backbones can be used. {reasons}")
    usable.sort(key=lambda row: (-row.probe_accuracy, -row.log_me))
    return [*usable, *(row for row in ranked if row.reason)]


def _rank(name: str, recipe: Recipe, workbench: Workbench) -> Ranked:
    started = time.monotonic()
    try:
        # Nothing is trained, so `precision: auto` need not be measured.
        recipe = recipe.replace(backbone=name, head_units=0, precision="float32")
        tuner, splits = workbench.tuner(recipe)
        segments = [Segment(tuner.assembly.features_model)]
        features = workbench.cache.features(segments, splits.train)[0]
        labels = splits.train.labels
        return Ranked(
            name,
            probe_accuracy(features, labels),
            log_me(features, labels),
            h_score(features, labels),
            tuner.backbone.model.count_params(),
            time.monotonic() - started,
        )
    except SearchError:  # of the photos, whatever the backbone
        raise
    except Exception as error:  # whatever it is, it rules out this backbone and no other
        return Ranked(name, reason=reason_of(error), seconds=time.monotonic() - started)
