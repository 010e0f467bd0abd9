"""A side of the benchmark `search`: `python -m benchmarks.search_side SIDE SPEC.json RESULT.json`.

A process of its own keeps memory, caches and traced graphs of one side from helping the next. Time
starts when libraries are imported, includes reading photos and opening the backbone, and ends with
the last trial; features are kept in memory only.
"""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfinetune.data import Splits
    from tfinetune.recipe import Recipe
    from tfinetune.search import Result, SearchRecipe

SPACE = {
    "head_units": [0, 64, 256],
    "learning_rate": {"low": 3e-4, "high": 1e-2, "log": True},
    "dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
}
BATCH_SIZE = 32


def run_heads(spec: dict[str, Any]) -> dict[str, Any]:
    """Run a random search over what trains a head."""
    import tfinetune as ft

    recipe = _default_recipe(spec).replace(
        strategy="head", augmentation="none", class_weights="never", batch_size=BATCH_SIZE
    )
    search = ft.search.SearchRecipe(
        recipe=recipe, space=SPACE, oracle="random", trials=spec["trials"], prune=False
    )
    times, results, splits = _run_search(search, Path(spec["scratch"]) / "heads")
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


def run_space(spec: dict[str, Any]) -> dict[str, Any]:
    """Run a search as it is without being told anything."""
    import tfinetune as ft

    search = ft.search.SearchRecipe(recipe=_default_recipe(spec), trials=spec["trials"])
    times, results, _ = _run_search(search, Path(spec["scratch"]) / "space")
    done = [result for result in results if result.status != "failed"]
    return {**times, "accuracies": [result.metrics["val_accuracy"] for result in done]}


def run_default(spec: dict[str, Any]) -> dict[str, Any]:
    """Train once with the default recipe."""
    from tfinetune import FineTuner, load_backbone
    from tfinetune.data import from_image_folder
    from tfinetune.training import FeatureCache
    from tfinetune.training.strategies import build_strategy

    recipe = _default_recipe(spec)
    cache = FeatureCache()
    clock = _Clock()
    splits = from_image_folder(
        recipe.data,
        image_size=recipe.image_size,
        validation=recipe.validation,
        test=recipe.test,
        seed=recipe.seed,
    )
    backbone = load_backbone(recipe.backbone, image_size=recipe.image_size)
    tuner = FineTuner(backbone, splits.spec, seed=recipe.seed, cache=cache)
    outcome = tuner.fit(
        splits, build_strategy(recipe.strategy, recipe.strategy_parameters), calibrate=False
    )
    return {**clock.read(), "accuracies": [outcome.shipped.accuracy]}


def _default_recipe(spec: dict[str, Any]) -> "Recipe":
    import tfinetune as ft

    return ft.Recipe(
        data=spec["data"],
        backbone=spec["backbone"],
        image_size=spec["image_size"],
        strategy_parameters={"epochs": spec["epochs"]},
    )


def _run_search(
    search: "SearchRecipe", path: Path
) -> tuple[dict[str, float], "list[Result]", "Splits"]:
    """Return the times of the trials of a search, what they gave, and their photos."""
    import tfinetune as ft
    from tfinetune.search.job import open_search, run_trials
    from tfinetune.training import FeatureCache

    workbench = ft.search.Workbench(FeatureCache())
    clock = _Clock()
    folder = open_search(search, path)
    run_trials(folder, workbench)
    times = clock.read()
    return times, folder.results(), workbench.splits(search.recipe, search.recipe.image_size)


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


SIDES = {
    "heads": run_heads,
    "keras_tuner": run_keras_tuner,
    "default": run_default,
    "space": run_space,
}


if __name__ == "__main__":
    side, question, answer = sys.argv[1:]
    measured = SIDES[side](json.loads(Path(question).read_text(encoding="utf-8")))
    Path(answer).write_text(json.dumps(measured), encoding="utf-8")
