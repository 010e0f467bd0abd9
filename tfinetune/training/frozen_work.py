"""What each phase of a run need not do again: its cut, its views, and the features there."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras

from tfinetune.adaptation import Plan
from tfinetune.assembly import Assembly
from tfinetune.backbones.graph import has_kernel
from tfinetune.data import Policy, Split, Splits, get_policy
from tfinetune.training.feature_cache import (
    CLEAN,
    CachedExamples,
    FeatureCache,
    Segment,
    augmented_views,
)
from tfinetune.training.folding import training_model
from tfinetune.training.frozen_prefix import Cut, FlatGraph, Use, choose_cut
from tfinetune.training.phase import Phase


@dataclass(frozen=True)
class Stage:
    """What one phase fits, and on what.

    Attributes:
        model: the whole model, or the suffix behind a cut; they share weights.
        train, validation: whose inputs are what `model` takes.
        augment: policy of the training split.
        views: how many of its views the epochs cycle through; None draws new ones in each.
    """

    model: keras.Model
    train: Split
    validation: Split | None
    augment: str
    views: int | None = None


class FrozenWork:
    """Where each phase cuts the model; the same for equal phases, data and memory.

    Args:
        assembly: what is trained.
        splits: what it is trained on.
        phases: all of the run: features of a later phase's cut are kept on the way.
        augment: the run's policy.
        seed: the run's.
        room: bytes that the features of one phase may take; 0 cuts nothing.

    Attributes:
        cuts: one for each phase; None where the phase has no frozen work worth keeping.
    """

    def __init__(
        self,
        assembly: Assembly,
        splits: Splits,
        phases: Sequence[Phase],
        *,
        augment: str,
        seed: int,
        room: int,
    ) -> None:
        self.assembly, self.splits, self.phases = assembly, splits, phases
        self.augment, self.seed = augment, seed
        self.cuts: list[Cut | None] = [None] * len(phases)
        layers = [layer for group in assembly.backbone.groups for layer in group.layers]
        plans = {
            index: plan
            for index, phase in enumerate(phases)
            if phase.solver == "sgd"
            and self._kept_views(phase)
            and _freezes_some(layers, plan := phase.plan(assembly))
        }
        if room and plans:
            self.graph = FlatGraph(
                assembly.logits_model,
                opens=lambda nested: any(
                    _freezes_some(nested.layers, plan) and not plan.is_frozen(nested)
                    for plan in plans.values()
                ),
            )
            examples = sum(map(len, filter(None, (splits.train, splits.validation))))
            for index, plan in plans.items():
                stored = self._stored_examples(phases[index])
                passes = phases[index].epochs * examples
                use = Use(stored, passes, room)
                self.cuts[index] = choose_cut(self.graph, plan, use)

    def views(self, index: int) -> int | None:
        """Return how many views a phase cycles through; None where each epoch draws new ones."""
        phase = self.phases[index]
        if self._is_plain(phase):
            return None
        if self.cuts[index]:
            return self._kept_views(phase)
        return phase.views if isinstance(phase.views, int) else None

    def describe(self, index: int) -> str | None:
        """Say in a sentence what a phase runs once, or None where it runs everything."""
        cut, phase, splits = self.cuts[index], self.phases[index], self.splits
        if cut is None:
            return None
        views = self.views(index)
        size = self._stored_examples(phase) * cut.size
        often = "once" if views is None else f"once for each of {views} views"
        cycle = "" if views is None else f" The {phase.epochs} epochs cycle through these views."
        return (
            f"{phase.name}: everything up to {cut.name} is frozen and runs {often} over "
            f"{len(splits.train)} examples; {size / 2**20:,.1f} MiB of features are kept.{cycle}"
        )

    def stage(self, index: int, cache: FeatureCache) -> Stage:
        """Return what a phase fits, its features computed.

        Raises:
            StorageError: if the features cannot be kept.
        """
        cut, phase = self.cuts[index], self.phases[index]
        policy = phase.policy(self.augment)
        if cut is None:
            return self.plain(index)
        segments = self._segments(index)
        views = augmented_views(policy, count=self._kept_views(phase), seed=self.seed)
        dtypes = [tensor.dtype for tensor in cut.tensors]

        def cached(split: Split, views: Sequence) -> Split:
            arrays = [cache.features(segments, split, view) for view in views]
            return dataclasses.replace(split, examples=CachedExamples(arrays, dtypes))

        validation = self.splits.validation
        return Stage(
            self.fitted(index, cut),
            cached(self.splits.train, views),
            validation and cached(validation, [CLEAN]),
            augment="none",
        )

    def plain(self, index: int) -> Stage:
        """Return a phase that runs everything in every step, on the same views."""
        policy = self.phases[index].policy(self.augment)
        splits = self.splits
        return Stage(
            self.fitted(index, None), splits.train, splits.validation, policy, self.views(index)
        )

    def fitted(self, index: int, cut: Cut | None) -> keras.Model:
        """Return what a phase fits: the whole model, or the suffix behind a cut.

        Frozen BatchNorms are part of the convolutions before them where that is possible.
        """
        whole = self.assembly.logits_model
        graph = self.graph if cut else FlatGraph(whole)
        folded = training_model(graph, cut, self.phases[index].plan(self.assembly))
        return folded or (graph.segment(cut, None) if cut else whole)

    def _segments(self, index: int) -> list[Segment]:
        """Return the way from the inputs to a phase's cut, past the cuts of other phases.

        Phases that unfreeze more and more need earlier and earlier cuts. Features of the earliest
        are computed from the examples, all others from features.
        """
        cut = self.cuts[index]
        on_the_way = [
            other
            for position, other in enumerate(self.cuts)
            if other and other.nodes < cut.nodes and self._lasts(other, position, index)
        ]
        different = {other.nodes: other for other in [*on_the_way, cut]}
        stops = sorted(different.values(), key=lambda other: len(other.nodes))
        ends = itertools.pairwise([None, *stops])
        return [Segment(self.graph.segment(start, stop)) for start, stop in ends]

    def _lasts(self, cut: Cut, position: int, index: int) -> bool:
        first, last = sorted((position, index))
        between = self.cuts[first : last + 1]
        return all(other and cut.nodes <= other.nodes for other in between)

    def _kept_views(self, phase: Phase) -> int:
        """Return how many views of each training example would be kept; 0 if none is seen twice."""
        policy = get_policy(phase.policy(self.augment))
        if policy == Policy():
            return 1
        if policy.mixes:  # with whatever else is in the batch, so no example is seen twice
            return 0
        views = 0 if phase.views == "fresh" else phase.view_count(len(self.splits.train))
        return views if views < phase.epochs else 0

    def _is_plain(self, phase: Phase) -> bool:
        return get_policy(phase.policy(self.augment)) == Policy()

    def _stored_examples(self, phase: Phase) -> int:
        held_out = self.splits.validation
        return len(self.splits.train) * self._kept_views(phase) + (len(held_out) if held_out else 0)


def _freezes_some(layers: Iterable[keras.Layer], plan: Plan) -> bool:
    """Whether layers that are worth running once are frozen."""
    return any(has_kernel(layer) and plan.is_frozen(layer) for layer in layers)
