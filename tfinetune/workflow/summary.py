"""What a run tells: metrics.json, the rows of its plan, and the report's content."""

import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.special import softmax

from tfinetune.adaptation.rules import groups_of
from tfinetune.backbones.describe import describe
from tfinetune.data import Split, Splits
from tfinetune.evaluation import (
    Mistake,
    ReportData,
    classification_metrics,
    expected_calibration_error,
    worst_mistakes,
)
from tfinetune.finetuner import FineTuner
from tfinetune.recipe import Recipe
from tfinetune.training import Phase
from tfinetune.training.precision import Precision


def announcement(tuner: FineTuner, splits: Splits) -> list[str]:
    """Say in a few sentences what was read, before the long part starts."""
    shared = f", each step shared out among {tuner.replicas} of them" if tuner.replicas > 1 else ""
    sizes = {s.name: len(s) for s in (splits.train, splits.validation, splits.test) if s}
    scaling = tuner.backbone.input_scaling
    height, width = tuner.backbone.image_size
    sentences = [
        f"{sum(sizes.values())} photos of {splits.spec.num_classes} classes "
        f"({', '.join(f'{count} {name}' for name, count in sizes.items())}); "
        f"{len(splits.quarantine)} set aside, {splits.ignored} stray files ignored.",
        f"Backbone {Path(tuner.backbone.provenance.source).name} at {height}x{width} pixels, "
        f"expects {scaling.describe()} ({scaling.origin}). Device: {device()}{shared}, "
        f"training in {tuner.precision.describe()}.",
    ]
    if splits.duplicates:
        sentences.append(
            f"{len(splits.duplicates)} groups of duplicates, listed in the report; kept on one "
            "side of the split unless the given folders divide them."
        )
    return sentences + [f"Note: {note}" for note in splits.notes]


def plan_rows(tuner: FineTuner, phases: list[Phase]) -> list[dict[str, Any]]:
    """Return what each phase does to each layer group, for tables: parameters, state, rate."""
    rows = []
    for phase in phases:
        plan = phase.plan(tuner.assembly)
        rates = phase.rates(tuner.groups)
        for name, layers in groups_of(tuner.assembly).items():
            weighted = [layer for layer in layers if layer.weights]
            trains = any(plan.trains(layer) for layer in weighted)
            rows.append(
                {
                    "phase": phase.name,
                    "group": name,
                    "layers": len(weighted),
                    "parameters": sum(layer.count_params() for layer in weighted),
                    "trainable": trains,
                    "learning_rate": rates.get(name) if trains else None,
                }
            )
    return rows


def evaluate(tuner: FineTuner, splits: Splits) -> tuple[dict[str, Any], list[Mistake]]:
    """Return the part of metrics.json that the model decides, and the worst mistakes."""
    names = list(splits.spec.class_names)
    outcome = tuner.outcome
    metrics: dict[str, Any] = {
        "class_names": names,
        "shipped": outcome.shipped.phase,
        "shipped_because": _why_shipped(tuner, splits),
        "candidates": [
            {
                "name": candidate.phase,
                "accuracy": candidate.accuracy,
                "loss": candidate.loss,
                "epoch": candidate.epoch,
                "shipped": candidate is outcome.shipped,
            }
            for candidate in outcome.candidates
        ],
        "temperature": tuner.assembly.temperature,
        "calibration": None,
        "class_weights": tuner.class_weights,
        "validation": None,
        "test": None,
    }
    mistakes: list[Mistake] = []
    # Where there is a test split, it comes last and its mistakes and calibration are shown.
    for split in filter(None, (splits.validation, splits.test)):
        logits = tuner.logits(split)
        probabilities = tuner.calibrated(logits)
        metrics[split.name] = classification_metrics(split.labels, probabilities, names)
        mistakes = _mistakes(split, probabilities, names)
        if splits.validation is not None:
            metrics["calibration"] = {
                "temperature": tuner.assembly.temperature,
                "ece_before": expected_calibration_error(softmax(logits, axis=1), split.labels),
                "ece_after": expected_calibration_error(probabilities, split.labels),
                "split": split.name,
            }
    return metrics, mistakes


def _why_shipped(tuner: FineTuner, splits: Splits) -> str:
    shipped, candidates = tuner.outcome.shipped, tuner.outcome.candidates
    if splits.validation is None:
        return (
            "There is no validation split, so nothing was selected: "
            f"{'the last epoch of ' if shipped.epoch else ''}{shipped.phase} ships, with "
            "uncalibrated probabilities."
        )
    if len(candidates) == 1:
        best = "; its best epoch on validation ships" if shipped.epoch else ""
        return f"{shipped.phase} is the only candidate{best}."
    others = ", ".join(
        f"{c.phase} {'diverged' if c.accuracy is None else f'{c.accuracy:.1%}'}"
        for c in candidates
        if c is not shipped
    )
    return (
        f"{shipped.phase} ships: {shipped.accuracy:.1%} on validation, against {others} "
        "(equal accuracy is decided by the loss)."
    )


def _mistakes(split: Split, probabilities: np.ndarray, names: list[str]) -> list[Mistake]:
    worst = worst_mistakes(split.labels, probabilities)
    images = split.images(worst)
    return [
        Mistake(
            image=image,
            id=split.ids[index],
            true=names[split.labels[index]],
            predicted=names[int(probabilities[index].argmax())],
            probability=float(probabilities[index].max()),
        )
        for index, image in zip(worst, images, strict=True)
    ]


def report_data(
    tuner: FineTuner,
    splits: Splits,
    recipe: Recipe,
    plan: list[dict[str, Any]],
    metrics: dict[str, Any],
    mistakes: list[Mistake],
) -> ReportData:
    outcome = tuner.outcome
    probe = next((c for c in outcome.candidates if c.phase == "probe"), None)
    facts = describe(tuner.backbone)
    measured = metrics["test"] or metrics["validation"]
    this_run = {
        "name": "this run",
        "accuracy": measured and measured["accuracy"],
        "interval": measured and measured["accuracy_interval"],
        "seconds": sum(outcome.seconds.values()),
    }
    return ReportData(
        title=f"{Path(recipe.data).name}: {len(splits.spec.class_names)} classes",
        class_names=splits.spec.class_names,
        counts=splits.spec.counts,
        quarantine=[vars(row) for row in splits.quarantine],
        stray_files=splits.ignored,
        stray_examples=splits.ignored_examples,
        duplicates=[vars(group) for group in splits.duplicates],
        notes=[*splits.notes, *_notes(tuner, splits)],
        test=metrics["test"],
        validation=metrics["validation"],
        calibration=metrics["calibration"],
        mistakes=mistakes,
        candidates=metrics["candidates"],
        shipped_because=metrics["shipped_because"],
        history=outcome.history,
        probe_accuracy=probe.accuracy if probe else None,
        plan=plan,
        phase_seconds=metrics["seconds"],
        total_seconds=metrics["total_seconds"],
        peak_memory_bytes=metrics["peak_memory_bytes"],
        device=f"{device()}, trained in {Precision(**metrics['precision']).describe()}",
        versions={name: version(name) for name in ("tfinetune", "tensorflow", "keras", "numpy")},
        backbone={
            "source": facts["source"],
            "kind": facts["kind"],
            "sha256": facts["sha256"],
            "parameters": facts["parameters"],
            "image_size": tuner.backbone.image_size,
            "input_range": facts["input_range"],
            "decided_by": facts["input_range_origin"],
            "warnings": facts["warnings"],
            "notes": facts["notes"],
        },
        parity=metrics["parity"],
        comparison=[this_run, *metrics["comparison"]] if metrics["comparison"] else [],
        recipe=recipe.to_yaml(),
        created=time.strftime("%Y-%m-%d %H:%M"),
    )


def _notes(tuner: FineTuner, splits: Splits) -> list[str]:
    notes = []
    if tuner.class_weights:
        weights = ", ".join(
            f"{splits.spec.class_names[index]} {weight:.2f}"
            for index, weight in tuner.class_weights.items()
        )
        notes.append(f"Classes are imbalanced; the loss weighs them: {weights}.")
    return notes


def peak_memory_bytes() -> int | None:
    """Return the largest resident size of this process so far; None where nothing tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device() -> str:
    """Return what computes, such as `CPU (2 cores)`."""
    accelerators = tf.config.list_logical_devices("GPU") + tf.config.list_logical_devices("TPU")
    if accelerators:
        return ", ".join(d.name.removeprefix("/device:") for d in accelerators)
    return f"CPU ({os.cpu_count()} cores)"
