"""One trial in a process of its own: `python -m benchmarks.trial SPEC.json RESULT.json`.

A fresh process keeps memory, caches and traced graphs of one contestant from helping or hurting
the next. Imports are done before the clock starts.
"""

import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import json

import numpy as np
from sklearn.metrics import accuracy_score, f1_score


@dataclass(frozen=True)
class Spec:
    """What to run. `train` and `test` list (path, class index) and are given to the peer; tfinetune
    splits `data` itself inside the measured time and must arrive at the same lists."""

    contestant: str
    data: str
    backbone: str
    image_size: int
    seed: int
    epochs: int
    class_weights: str
    classes: int
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]


def run_peer(spec: Spec) -> list[dict]:
    """Run the keras.io recipe: one row for its head alone, one for the whole."""
    from benchmarks import keras_recipe

    stages = keras_recipe.train(
        spec.train,
        spec.test,
        backbone=spec.backbone,
        image_size=spec.image_size,
        classes=spec.classes,
        head_epochs=spec.epochs,
        whole_epochs=spec.epochs,
        seed=spec.seed,
    )
    labels = [label for _, label in spec.test]
    head, whole = stages
    total = (head.seconds + whole.seconds, head.cpu_seconds + whole.cpu_seconds)
    return [
        _row("recipe, head only", labels, head.probabilities, head.seconds, head.cpu_seconds),
        _row("recipe", labels, whole.probabilities, *total),
    ]


def run_tfinetune(spec: Spec) -> list[dict]:
    """Fit a strategy of tfinetune: one row."""
    import tfinetune as ft

    strategies = {
        "default": lambda: ft.strategies.LPFT(epochs=spec.epochs),
        "linear probe": ft.strategies.LinearProbe,
    }
    # Modules load on first use: touch them all before the clock starts.
    strategy, fine_tuner, scan = strategies[spec.contestant](), ft.FineTuner, ft.data
    wall, cpu = time.perf_counter(), time.process_time()
    splits = scan.from_image_folder(
        spec.data, image_size=spec.image_size, validation=0, test=0.3, seed=spec.seed
    )
    backbone = ft.load_backbone(spec.backbone, image_size=spec.image_size)
    tuner = fine_tuner(backbone, splits.spec, seed=spec.seed)
    tuner.fit(splits, strategy, class_weighting=spec.class_weights)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    for split, given in ((splits.train, spec.train), (splits.test, spec.test)):
        if sorted(map(str, split.paths)) != sorted(path for path, _ in given):
            raise AssertionError(f"The {split.name} photos differ from those the peer was given.")
    probabilities = tuner.probabilities(splits.test)
    name = spec.contestant
    if spec.class_weights != "auto":
        name += f", class weights {spec.class_weights}"
    return [_row(name, splits.test.labels, probabilities, seconds, cpu_seconds)]


def _row(
    name: str, labels: list[int], probabilities: np.ndarray, seconds: float, cpu_seconds: float
) -> dict:
    predicted = np.asarray(probabilities).argmax(-1)
    return {
        "name": name,
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def main(spec_path: str, result_path: str) -> None:
    """Run what `spec_path` says and write its rows to `result_path`."""
    spec = Spec(**json.loads(Path(spec_path).read_text(encoding="utf-8")))
    rows = run_peer(spec) if spec.contestant == "recipe" else run_tfinetune(spec)
    Path(result_path).write_text(json.dumps(rows), encoding="utf-8")


def write_spec(spec: Spec, path: Path) -> None:
    """Write a spec where `main` reads it."""
    path.write_text(json.dumps(asdict(spec)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
