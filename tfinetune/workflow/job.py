"""The main job: a recipe in, a finished run folder out. What the commands and scripts call."""

import shutil
import time
from pathlib import Path
from typing import Any

import keras

from tfinetune.data import Splits
from tfinetune.distribution import device_strategy
from tfinetune.evaluation import write_report
from tfinetune.finetuner import FineTuner
from tfinetune.recipe import Recipe
from tfinetune.reporting import Reporter
from tfinetune.runs import RunFolder
from tfinetune.security.saved_model import trusting
from tfinetune.storage import atomic_path, sha256_file, write_json
from tfinetune.training import FeatureCache
from tfinetune.training.estimate import estimate_seconds
from tfinetune.training.strategies import Strategy, build_strategy
from tfinetune.workflow.finished import Run
from tfinetune.workflow.prepare import prepare
from tfinetune.workflow.summary import (
    announcement,
    evaluate,
    peak_memory_bytes,
    plan_rows,
    report_data,
)


def plan(
    recipe: Recipe,
    *,
    trust: bool = False,
    cache: FeatureCache | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Say what a recipe would do and for how long, measured on a few batches; write nothing."""
    strategy = build_strategy(recipe.strategy, recipe.strategy_parameters)
    with reporter or Reporter() as reporter, trusting(trust):
        recipe, tuner, splits = prepare(recipe, reporter, cache=cache)
        phases = tuner.phases(strategy)
        work = tuner.frozen_work(splits, phases, augment=recipe.augmentation)
        with device_strategy(recipe.distribute).scope():
            seconds = estimate_seconds(work, batch_size=recipe.batch_size)
    scaling = tuner.backbone.input_scaling
    return {
        "photos": sum(sum(counts.values()) for counts in splits.spec.counts.values()),
        "set_aside": len(splits.quarantine),
        "stray_files": splits.ignored,
        "class_names": list(splits.spec.class_names),
        "image_size": list(tuner.backbone.image_size),
        "input_range": scaling.describe(),
        "input_range_origin": scaling.origin,
        "plan": plan_rows(tuner, phases),
        "frozen_work": list(filter(None, map(work.describe, range(len(phases))))),
        "estimated_seconds": seconds,
    }


def train(
    recipe: Recipe,
    output: str | Path,
    *,
    resume: bool = False,
    trust: bool = False,
    backbone: keras.Model | None = None,
    checkpoint: str | Path | None = None,
    cache: FeatureCache | None = None,
    reporter: Reporter | None = None,
    comparison: list[dict[str, Any]] | None = None,
) -> Run:
    """Run a recipe from photos to report.

    Args:
        recipe: what to do.
        output: run folder; new or empty, unless resuming.
        resume: continue a run that was interrupted; a finished one is returned as it is.
        trust: see `load_backbone`; the run's recipe records it.
        backbone: a model in memory, in place of `recipe.backbone`. It is saved into the run, so
            that the run's recipe reproduces without it; a resumed run takes the saved one.
        checkpoint: where another run of this recipe got to; a new run goes on from there.
        cache: where outputs of frozen layers are kept, see `FineTuner`.
        reporter: shows progress; None is silent.
        comparison: rows `{name, accuracy, interval, seconds}` for the report.

    Raises:
        TfinetuneError: one of its subclasses, with a message for the user.
    """
    strategy = build_strategy(recipe.strategy, recipe.strategy_parameters)
    recipe = recipe.replace(strategy_parameters=strategy.parameters(), trust=recipe.trust or trust)
    folder = RunFolder.resume(output) if resume else RunFolder.create(output)
    watch = _Stopwatch()
    with reporter or Reporter() as reporter, trusting(trust):
        if resume:
            if not recipe.backbone or backbone is not None:  # it was chosen, or kept, then
                recipe = recipe.replace(backbone=folder.recipe().backbone)
            backbone = None
            if recipe.precision == "auto":  # what was measured then; now it may come out otherwise
                recipe = recipe.replace(precision=folder.recipe().precision)
            folder.check_same_recipe(recipe)
            if folder.finished:
                reporter.say(f"The run in {output} is finished already.")
                return Run(folder, trust=trust)
        recipe, tuner, splits = prepare(recipe, reporter, backbone=backbone, cache=cache)
        phases = tuner.phases(strategy)
        started = {
            "fingerprint": splits.spec.fingerprint,
            "backbone_sha256": tuner.backbone.provenance.sha256,
            "phases": [phase.model_dump(mode="json") for phase in phases],
            "plan": plan_rows(tuner, phases),
            "comparison": comparison or [],
            "precision": vars(tuner.precision),
        }
        recipe = recipe.replace(precision=tuner.precision.name)
        if resume:
            folder.check_same_start(started)
        else:
            if checkpoint is not None:
                with atomic_path(folder.checkpoint_path) as temporary:
                    shutil.copyfile(checkpoint, temporary)
            recipe = _keep(recipe, folder, started, backbone=backbone)
        reporter.log_to(folder.log_path)
        for sentence in announcement(tuner, splits):
            reporter.say(sentence)
        watch.lap("reading photos and backbone")
        _execute(tuner, splits, strategy=strategy, recipe=recipe, folder=folder, watch=watch)
    return Run(folder, trust=trust)


def _keep(
    recipe: Recipe, folder: RunFolder, started: dict[str, Any], *, backbone: keras.Model | None
) -> Recipe:
    """Write what a resumed run needs; the recipe last, for its presence says that all is there.

    Returns:
        The recipe as written.
    """
    if backbone is not None:
        with atomic_path(folder.backbone_path) as temporary:
            backbone.save(temporary)
        # Relative: a run folder that is moved keeps its model from memory.
        recipe = recipe.replace(backbone=folder.backbone_path.name)
        started = {**started, "backbone_sha256": sha256_file(folder.backbone_path)}
    write_json(folder.phases_path, started)
    recipe.save(folder.recipe_path)
    return recipe


def _execute(
    tuner: FineTuner,
    splits: Splits,
    *,
    strategy: Strategy,
    recipe: Recipe,
    folder: RunFolder,
    watch: "_Stopwatch",
) -> None:
    started = folder.phases()
    outcome = tuner.fit(
        splits,
        strategy,
        batch_size=recipe.batch_size,
        augment=recipe.augmentation,
        class_weighting=recipe.class_weights,
        checkpoint=folder.checkpoint_path,
        on_epoch=folder.write_history,
    )
    watch.add(outcome.seconds)
    tuner.save(folder.model_path)
    metrics, mistakes = evaluate(tuner, splits)
    watch.lap("evaluation")
    parity = tuner.export(folder.saved_model_path)
    watch.lap("export and parity")
    metrics |= {
        "parity": [vars(row) for row in parity],
        "comparison": started["comparison"],
        "precision": started["precision"],
        "seconds": watch.seconds,
        "total_seconds": watch.total,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    write_json(folder.metrics_path, metrics)
    report = report_data(tuner, splits, recipe, started["plan"], metrics, mistakes)
    write_report(folder.report_path, report)
    folder.write_manifest()


class _Stopwatch:
    """Seconds by step, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._mark = time.monotonic()

    def lap(self, name: str) -> None:
        """Book the time since the last call under `name`."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._mark, 3)
        self._mark = now

    def add(self, seconds: dict[str, float]) -> None:
        """Book times measured elsewhere, which may include those of an interrupted process."""
        self.seconds |= {name: round(value, 3) for name, value in seconds.items()}
        self._mark = time.monotonic()

    @property
    def total(self) -> float:
        """Sum of all that was booked, in every process that worked on the run."""
        return round(sum(self.seconds.values()), 3)
