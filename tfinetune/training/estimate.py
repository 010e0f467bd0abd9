"""How long phases will take, measured on a few real batches before anything is trained."""

import time
from collections.abc import Callable, Sequence

from tfinetune.assembly import Assembly
from tfinetune.data import Split
from tfinetune.inference import constant_function
from tfinetune.training.feature_cache import cached_views
from tfinetune.training.phase import Phase
from tfinetune.training.runner import compile_for


def estimate_seconds(
    assembly: Assembly, train: Split, *, phases: Sequence[Phase], batch_size: int, augment: str
) -> dict[str, float]:
    """Measure a forward pass or a training step for each phase and multiply.

    Args:
        assembly: its weights are put back afterwards.
        train: the training split.
        phases: what a strategy lists.
        batch_size: photos a step.
        augment: the policy, which says how many views a probe takes.

    Returns:
        Seconds by phase name, without reading photos, validation, the convex solver and export.
    """
    images, labels = next(iter(train.dataset(batch_size, epoch=0)))
    before = assembly.get_weights()
    seconds = {}
    for phase in phases:
        if phase.solver == "logistic":
            function = constant_function(assembly.features_model)
            views = cached_views(phase.policy(augment))
            once = _time(lambda: function(images))  # noqa: B023 (called at once)
            seconds[phase.name] = once / len(images) * len(train) * len(views)
        else:
            steps = train.steps(batch_size) * phase.epochs
            compile_for(phase, assembly, steps=steps)
            model = assembly.logits_model
            seconds[phase.name] = steps * _time(lambda: model.train_on_batch(images, labels))  # noqa: B023
    assembly.set_weights(before)
    return seconds


def _time(action: Callable[[], object], *, repeats: int = 3) -> float:
    action()  # the first call traces the graph
    started = time.perf_counter()
    for _ in range(repeats):
        action()
    return (time.perf_counter() - started) / repeats
