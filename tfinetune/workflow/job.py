"""The main job: a recipe in, a finished run folder out. What the commands and scripts call."""

import resource
import time
from pathlib import Path
from typing import Any

import keras

from tfinetune.data import Splits
from tfinetune.evaluation import write_report
from tfinetune.finetuner import FineTuner
from tfinetune.recipe import Recipe
from tfinetune.reporting import Reporter
from tfinetune.runs import RunFolder
from tfinetune.storage import atomic_path, write_json
from tfinetune.training.estimate import estimate_seconds
from tfinetune.training.strategies import build_strategy
from tfinetune.workflow.finished import Run
from tfinetune.workflow.prepare import check_same_data, default_backbone, prepare
from tfinetune.workflow.summary import announcement, evaluate, plan_rows, report_data


def plan(recipe: Recipe, *, reporter: Reporter | None = None) -> dict[str, Any]:
    """Say what a recipe would do and for how long, measured on a few batches; write nothing."""
    strategy = build_strategy(recipe.strategy, recipe.strategy_parameters)
    with reporter or Reporter() as reporter:
        tuner, splits = prepare(recipe, reporter)
        phases = tuner.phases(strategy)
        seconds = estimate_seconds(
            tuner.assembly,
            splits.train,
            phases=phases,
            batch_size=recipe.batch_size,
            augment=recipe.augmentation,
        )
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
        "estimated_seconds": seconds,
    }


def train(
    recipe: Recipe,
    output: str | Path,
    *,
    resume: bool = False,
    backbone: keras.Model | None = None,
    reporter: Reporter | None = None,
    comparison: list[dict[str, Any]] | None = None,
) -> Run:
    """Run a recipe from photos to report.

    Args:
        recipe: what to do.
        output: run folder; new or empty, unless resuming.
        resume: continue a run that was interrupted; a finished one is returned as it is.
        backbone: a model in memory, in place of `recipe.backbone`. It is saved into the run, so
            that the run's recipe reproduces without it.
        reporter: shows progress; None is silent.
        comparison: rows `{name, accuracy, interval, seconds}` for the report.

    Raises:
        TfinetuneError: one of its subclasses, with a message for the user.
    """
    strategy = build_strategy(recipe.strategy, recipe.strategy_parameters)
    recipe = recipe.replace(strategy_parameters=strategy.parameters())
    folder = RunFolder.resume(output) if resume else RunFolder.create(output)
    with reporter or Reporter() as reporter:
        if backbone is not None:
            recipe = recipe.replace(backbone=_keep(backbone, folder))
        elif not recipe.backbone:
            recipe = recipe.replace(backbone=default_backbone(reporter))
        if resume:
            folder.check_same_recipe(recipe)
            if folder.finished:
                reporter.say(f"The run in {output} is finished already.")
                return Run(folder)
            reporter.log = folder.log_path
        watch = _Stopwatch()
        try:
            tuner, splits = prepare(recipe, reporter)
        except BaseException:
            if not resume:  # leave the folder empty, so that the corrected command can use it
                folder.backbone_path.unlink(missing_ok=True)
            raise
        if resume:
            check_same_data(folder, splits)
        else:
            reporter.log = folder.log_path
            # Relative: a run folder that is moved keeps its model from memory.
            kept = recipe.replace(backbone=folder.backbone_path.name)
            (recipe if backbone is None else kept).save(folder.recipe_path)
        for sentence in announcement(tuner, splits):
            reporter.say(sentence)
        watch.lap("reading photos and backbone")
        return _execute(
            tuner,
            splits,
            recipe=recipe,
            folder=folder,
            watch=watch,
            comparison=comparison or [],
        )


def _keep(backbone: keras.Model, folder: RunFolder) -> str:
    """Save a model from memory into the run, so that the recipe reproduces without it."""
    if not folder.backbone_path.exists():
        with atomic_path(folder.backbone_path) as temporary:
            backbone.save(temporary)
    return str(folder.backbone_path.resolve())


def _execute(
    tuner: FineTuner,
    splits: Splits,
    *,
    recipe: Recipe,
    folder: RunFolder,
    watch: "_Stopwatch",
    comparison: list[dict[str, Any]],
) -> Run:
    strategy = build_strategy(recipe.strategy, recipe.strategy_parameters)
    phases = tuner.phases(strategy)
    plan = {
        "fingerprint": splits.spec.fingerprint,
        "phases": [phase.model_dump(mode="json") for phase in phases],
        "plan": plan_rows(tuner, phases),
    }
    write_json(folder.phases_path, plan)
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
        "comparison": comparison,
        "seconds": watch.seconds,
        "total_seconds": watch.total,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    write_json(folder.metrics_path, metrics)
    report = report_data(tuner, splits, recipe, plan["plan"], metrics, mistakes)
    write_report(folder.report_path, report)
    folder.write_manifest()
    return Run(folder)


class _Stopwatch:
    """Seconds by step, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = self._mark = time.monotonic()

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
        """Seconds since the start."""
        return round(time.monotonic() - self._started, 3)
