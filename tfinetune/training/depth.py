"""How deep to build on a backbone: the last layers may know too much about another task.

A network that was trained to tell persons from the rest keeps nothing else in its last maps, while
its middle still describes the image (Yosinski et al. 2014, "How transferable are features in deep
neural networks?"). One forward pass gives the features of every depth, a linear probe on each says
which tell the classes apart best.
"""

from dataclasses import dataclass

import keras
import numpy as np

from tfinetune.assembly import pooled_features
from tfinetune.backbones import Backbone
from tfinetune.backbones.graph import alone
from tfinetune.data import Split
from tfinetune.errors import DataError
from tfinetune.reporting import Reporter
from tfinetune.training.feature_cache import FeatureCache, Segment
from tfinetune.training.logistic import probe_loss

FOLDS = 3


@dataclass(frozen=True)
class Depth:
    """A depth and how well its features do.

    Attributes:
        group: the last layer group.
        features: length of the pooled features.
        loss: cross-validated log loss of a linear head on them.
    """

    group: str
    features: int
    loss: float


def rank_depths(
    backbone: Backbone,
    train: Split,
    *,
    seed: int = 0,
    cache: FeatureCache | None = None,
    reporter: Reporter | None = None,
) -> list[Depth]:
    """Return every depth that a backbone can end at, the best first.

    Args:
        backbone: is not changed.
        train: examples to judge by, each class at least 3 times.
        seed: of the cross-validation.
        cache: where the features of every depth are found, or kept for the next time.
        reporter: shows a bar for the forward pass.

    Raises:
        DataError: if a class has too few examples to cross-validate.
    """
    fewest = int(np.bincount(train.labels, minlength=train.num_classes).min())
    if fewest < FOLDS:
        raise DataError(
            f"To compare depths every class needs {FOLDS} training examples; one has {fewest}. "
            "Add some, or name a group as features."
        )
    taps = backbone.depths()
    body = keras.Model(backbone.model.input, alone(list(taps.values())))
    cache = cache or FeatureCache(reporter=reporter)
    (features,) = cache.features([Segment(pooled_features(backbone, body))], train)
    sizes = [tensor.shape[-1] for tensor in taps.values()]
    columns = np.split(features, np.cumsum(sizes)[:-1], axis=1)
    depths = [
        Depth(group, part.shape[1], probe_loss(part, train.labels, folds=FOLDS, seed=seed))
        for group, part in zip(taps, columns, strict=True)
    ]
    return sorted(depths, key=lambda depth: depth.loss)


def choose_depth(
    backbone: Backbone,
    train: Split,
    *,
    seed: int = 0,
    cache: FeatureCache | None = None,
    reporter: Reporter | None = None,
) -> Backbone:
    """Return the backbone cut to the depth whose features tell the classes apart best.

    Args:
        backbone: shares its layers with what is returned.
        train: examples to judge by.
        seed: of the cross-validation.
        cache: where the features of every depth are found, or kept for the next time.
        reporter: told what was chosen.

    Raises:
        DataError: if a class has too few examples to cross-validate.

    Example:
        >>> splits = ft.data.from_image_folder("photos/", image_size=96)  # doctest: +SKIP
        >>> backbone = ft.choose_depth(ft.load_backbone("person.h5"), splits.train)
        >>> tuner = ft.FineTuner(backbone, splits.spec)
    """
    reporter = reporter or Reporter()
    if not backbone.depths():
        reporter.say("The backbone is used whole: it is one layer, which cannot be cut.")
        return backbone
    depths = rank_depths(backbone, train, seed=seed, cache=cache, reporter=reporter)
    best, whole = depths[0], list(backbone.depths())[-1]
    compared = ", ".join(f"{depth.group} {depth.loss:.3f}" for depth in depths[:4])
    if best.group == whole:
        reporter.say(f"The backbone is used whole: its probe loss is lowest ({compared}).")
        return backbone
    reporter.say(f"The backbone is used up to {best.group}: its probe loss is lowest ({compared}).")
    return backbone.up_to(best.group)
