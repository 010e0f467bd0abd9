"""Run by test_distribution.py: fits and a search under a strategy, in a process with two devices.

Usage: fit_on_two_devices.py PHOTOS FOLDER

Writes FOLDER/outcome.json and a search to FOLDER/search.
"""

import gc
import json
import os
import sys
import weakref
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import tfinetune as ft
from tfinetune import export, workflow
from tfinetune.errors import DeviceError


def backbone() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2)(layers.Rescaling(1 / 255.0)(image))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, strides=2)(x)
    return keras.Model(image, layers.BatchNormalization()(x))


def fit(splits: ft.data.Splits, folder: Path, *, distribute: str, interrupted: bool) -> dict:
    """Train a head on features in memory, then everything on mixed photos."""
    tuner = ft.FineTuner(
        backbone(), splits.spec, dropout=0, distribute=distribute, cache=ft.FeatureCache()
    )
    head = ft.strategies.Head(epochs=2, learning_rate=0.02, label_smoothing=0.1)
    options = {"batch_size": 5, "class_weighting": "always"}
    first = tuner.fit(splits, head, augment="none", **options)

    def interrupt(history: list) -> None:
        if interrupted and len(history) == 1:
            raise KeyboardInterrupt

    full = ft.strategies.Full(epochs=2, learning_rate=0.01, layer_decay=0.8)
    options |= {"augment": "flip, mixup=0.3", "checkpoint": folder / f"{distribute}.npz"}
    try:
        second = tuner.fit(splits, full, on_epoch=interrupt, **options)
    except KeyboardInterrupt:
        second = tuner.fit(splits, full, **options)
    kernel = tuner.assembly.logits_layer.kernel.value
    return {
        "weights": [weight.tolist() for weight in tuner.assembly.get_weights()],
        "history": [*first.history, *second.history],
        "accuracy": tuner.evaluate(splits.validation)["accuracy"],
        "replicas": tuner.replicas,
        "copies": [copy.numpy().tolist() for copy in getattr(kernel, "values", [kernel])],
    }


def graph_is_freed() -> bool:
    """Whether nothing holds the graph of a training step once the step is gone."""
    strategy = ft.distribution.device_strategy("mirrored")
    with strategy.scope():
        optimizer, variable = ft.optimizers.AdamW(0.01), keras.Variable([1.0])
        optimizer.build([variable])
    gradient = [tf.ones(1)]
    step = tf.function(
        lambda: strategy.run(lambda: optimizer.apply(gradient, [variable])), autograph=False
    )
    graph = weakref.ref(step.get_concrete_function().graph)
    del step
    gc.collect()
    return graph() is None


def text_model() -> keras.Model:
    text = keras.Input((), dtype="string")
    words = layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=2)(text)
    return keras.Model(text, layers.Embedding(4, 3)(words))


def refusal(splits: ft.data.Splits, opened: object, **options: object) -> str:
    strategy = ft.strategies.Full(epochs=1, batch_norm=options.pop("batch_norm", "frozen"))
    try:
        ft.FineTuner(opened, splits.spec, distribute="mirrored", **options).fit(splits, strategy)
    except DeviceError as error:
        return str(error)
    return ""


def search(recipe: ft.Recipe, folder: Path) -> None:
    space = {"learning_rate": {"low": 1e-3, "high": 0.1, "log": True}}
    asked = ft.search.SearchRecipe(recipe=recipe, space=space, trials=2, margin=0)
    # The gate starts two processes more, which take longer than all else here; the test compares.
    export.check_parity = lambda *_, **__: []
    ft.search.run(asked, folder / "search")


def main(photos: str, folder: Path) -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    backbone().save(folder / "base.keras")
    recipe = ft.Recipe(
        data=photos,
        backbone=str(folder / "base.keras"),
        validation=0.25,
        test=0.25,
        strategy="head",
        strategy_parameters={"epochs": 1},
        distribute="mirrored",
    )
    splits = ft.data.from_image_folder(photos, image_size=16, validation=0.2, test=0)
    texts = ft.data.from_arrays(np.array([f"a {n}" for n in range(8)]), np.arange(8) % 2)
    outcome = {
        "sizes": [len(splits.train), len(splits.validation)],
        "one": fit(splits, folder, distribute="none", interrupted=False),
        "two": fit(splits, folder, distribute="mirrored", interrupted=True),
        "graph_is_freed": graph_is_freed(),
        "estimated_seconds": workflow.plan(recipe)["estimated_seconds"],
        "refusals": {
            "batch_norm": refusal(splits, backbone(), batch_norm="adapt"),
            "precision": refusal(splits, backbone(), precision="mixed_float16"),
            "texts": refusal(texts, text_model()),
            "scope": refusal(splits, ft.load_backbone(backbone())),
        },
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))
    search(recipe, folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
