"""What sharing is worth in a search: the same trials here and in plain KerasTuner.

Both sides train a head (hidden units, rate, dropout) on one frozen backbone, without augmentation,
for the same epochs on the same photos, and choose by the same held-out photos. The peer is what
KerasTuner's documentation shows: a `build` that compiles a model, and `fit` on a `tf.data` that
keeps decoded photos in memory and prefetches. It has our optimizer with its schedule: accuracies
at a constant rate swing more, and the best of ten epochs would seem better. Both report the best
epoch. What still differs is that photos are resized another way, and that all our heads start from
one seed, so that the best of the peer's 20 profits from 20 starts. Each side runs in a process of
its own; time starts when libraries are imported and ends with the last trial.

    python -m benchmarks search --data photos/ --backbone base_model.keras
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import Row

SPACE = {
    "head_units": [0, 64, 256],
    "learning_rate": {"low": 3e-4, "high": 1e-2, "log": True},
    "dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
}
BATCH_SIZE = 32
AT_LEAST = 15.0
"""Times faster than the peer, with 20 trials of 10 epochs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks search`."""
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per class")
    parser.add_argument(
        "--backbone", type=Path, required=True, help="model without top that expects [-1, 1]"
    )
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure both sides."""
    with tempfile.TemporaryDirectory() as scratch:
        spec = {
            "data": str(arguments.data.resolve()),
            "backbone": str(arguments.backbone.resolve()),
            "image_size": arguments.image_size,
            "trials": arguments.trials,
            "epochs": arguments.epochs,
            "scratch": scratch,
        }
        ours = _measure("tfinetune", spec)
        # The peer is given what the first side drew, and its division of the photos.
        peer = _measure("keras_tuner", {**spec, **ours})
    return [
        Row(
            f"search of {arguments.trials} trials over head, rate and dropout",
            "KerasTuner",
            value=peer["seconds"] / ours["seconds"],
            least=AT_LEAST,
            cpu=peer["cpu_seconds"] / ours["cpu_seconds"],
            ours=_side(ours),
            theirs=_side(peer),
        )
    ]


def _side(measured: dict[str, Any]) -> str:
    accuracies = measured["accuracies"]
    return (
        f"{measured['seconds']:.1f} s, accuracy {statistics.mean(accuracies):.3f} "
        f"(best {max(accuracies):.3f})"
    )


def _measure(side: str, spec: dict[str, Any]) -> dict[str, Any]:
    question, answer = (Path(spec["scratch"]) / f"{side}-{name}.json" for name in ("in", "out"))
    question.write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.search", side, str(question), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(answer.read_text(encoding="utf-8"))


def run_tfinetune(spec: dict[str, Any]) -> dict[str, Any]:
    """Run the trials of a random search, features in memory only."""
    import tfinetune as ft
    from tfinetune.search.job import open_search, run_trials
    from tfinetune.training import FeatureCache

    recipe = ft.Recipe(
        data=spec["data"],
        backbone=spec["backbone"],
        image_size=spec["image_size"],
        strategy="head",
        strategy_parameters={"epochs": spec["epochs"]},
        augmentation="none",
        class_weights="never",
        batch_size=BATCH_SIZE,
    )
    search = ft.search.SearchRecipe(
        recipe=recipe, space=SPACE, oracle="random", trials=spec["trials"], prune=False
    )
    workbench = ft.search.Workbench(FeatureCache())
    clock = _Clock()
    folder = open_search(search, Path(spec["scratch"]) / "search")
    run_trials(folder, workbench)
    times = clock.read()
    results = folder.results()
    splits = workbench.splits(recipe, (spec["image_size"],) * 2)
    return {
        **times,
        "accuracies": [result.metrics["val_accuracy"] for result in results],
        "values": [result.values for result in results],
        "classes": splits.spec.num_classes,
        "photos": {
            split.name: list(zip(map(str, split.paths), map(int, split.labels), strict=True))
            for split in (splits.train, splits.validation)
        },
    }


def run_keras_tuner(spec: dict[str, Any]) -> dict[str, Any]:
    """Run the same values through KerasTuner as its documentation shows."""
    import keras
    import keras_tuner as kt
    import tensorflow as tf

    from benchmarks.keras_recipe import load_photos, open_base

    size, classes = spec["image_size"], spec["classes"]
    steps = -(-len(spec["photos"]["train"]) // BATCH_SIZE) * spec["epochs"]

    class Given(kt.Oracle):
        """Proposes the values that the other side drew."""

        def populate_space(self, trial_id: str) -> dict[str, Any]:
            if len(self.trials) >= len(spec["values"]):
                return {"status": "STOPPED"}
            return {"status": "RUNNING", "values": spec["values"][len(self.trials)]}

    def build(hp: kt.HyperParameters) -> keras.Model:
        units = hp.Choice("head_units", SPACE["head_units"])
        rate = hp.Float("learning_rate", 3e-4, 1e-2, sampling="log")
        dropout = hp.Float("dropout", 0.0, 0.5, step=0.1)
        base = open_base(spec["backbone"], image_size=size)
        base.trainable = False
        inputs = keras.Input((size, size, 3))
        x = keras.layers.Rescaling(scale=1 / 127.5, offset=-1)(inputs)
        x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
        if units:
            x = keras.layers.Dense(units, "relu")(x)
        x = keras.layers.Dropout(dropout)(x)
        model = keras.Model(inputs, keras.layers.Dense(classes)(x))
        warmup = round(0.1 * steps)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, steps - warmup, warmup_target=rate, warmup_steps=warmup
        )
        model.compile(
            optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model

    clock = _Clock()
    keras.utils.set_random_seed(0)
    photos = {
        name: load_photos(rows, image_size=size).cache() for name, rows in spec["photos"].items()
    }
    train = photos["train"].shuffle(len(spec["photos"]["train"]))
    tuner = kt.Tuner(
        Given(objective=kt.Objective("val_accuracy", "max")),
        build,
        directory=spec["scratch"],
        project_name="keras_tuner",
    )
    tuner.search(
        train.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE),
        validation_data=photos["validation"].batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE),
        epochs=spec["epochs"],
        verbose=0,
    )
    times = clock.read()
    return {**times, "accuracies": [trial.score for trial in tuner.oracle.trials.values()]}


class _Clock:
    """Wall and processor time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
        }


SIDES = {"tfinetune": run_tfinetune, "keras_tuner": run_keras_tuner}


if __name__ == "__main__":
    side, question, answer = sys.argv[1:]
    measured = SIDES[side](json.loads(Path(question).read_text(encoding="utf-8")))
    Path(answer).write_text(json.dumps(measured), encoding="utf-8")
