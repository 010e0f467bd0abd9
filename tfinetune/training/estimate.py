"""How long phases will take, measured on a few real batches before anything is trained."""

import time
from collections.abc import Callable

from tfinetune.distribution import replicas
from tfinetune.inference import constant_function
from tfinetune.training.feature_cache import probe_views
from tfinetune.training.frozen_work import FrozenWork
from tfinetune.training.runner import compile_for


def estimate_seconds(work: FrozenWork, *, batch_size: int) -> dict[str, float]:
    """Measure a forward pass or a training step for each phase and multiply.

    Args:
        work: the phases, and what each of them runs once. The weights are put back afterwards.
            Where training is distributed, call this in the strategy's scope.
        batch_size: photos a step.

    Returns:
        Seconds by phase name, without reading photos, validation, the convex solver and export.
    """
    assembly, train = work.assembly, work.splits.train
    share = -(-batch_size // replicas())  # what each device gets of a batch
    inputs, labels = next(iter(train.dataset(share, epoch=0)))
    before = assembly.get_weights()
    seconds = {}
    for index, phase in enumerate(work.phases):
        seconds[phase.name] = 0.0
        batch, passes, cut = inputs, 0, work.cuts[index]
        if phase.solver == "logistic":
            prefix, passes = assembly.features_model, len(probe_views(phase.policy(work.augment)))
        elif cut:
            prefix, passes = work.graph.segment(None, cut), work.views(index) or 1
        if passes:
            function = constant_function(prefix)
            batch = function(inputs)
            once = _time(lambda: function(inputs)) / len(labels)  # noqa: B023 (called at once)
            seconds[phase.name] += once * len(train) * passes
        if phase.solver == "sgd":
            model = work.fitted(index, cut)
            steps = train.steps(batch_size) * phase.epochs
            compile_for(phase, assembly, model=model, steps=steps)
            batch = tuple(batch) if isinstance(batch, list) else batch
            once = _time(lambda: model.train_on_batch(batch, labels))  # noqa: B023
            seconds[phase.name] += steps * once
    assembly.set_weights(before)
    return seconds


def _time(action: Callable[[], object], *, repeats: int = 3) -> float:
    action()  # the first call traces the graph
    started = time.perf_counter()
    for _ in range(repeats):
        action()
    return (time.perf_counter() - started) / repeats
