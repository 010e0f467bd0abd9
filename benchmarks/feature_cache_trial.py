"""What each contestant of `benchmarks.feature_cache` runs, in a process of its own.

Both sides start from the same decoded photos and an opened backbone; the clock runs from there to a
trained model, with building, tracing and compiling. Imports and the test are not counted.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

BATCH_SIZE = 32
HEAD_RATE, TUNING_RATE = 1e-3, 3e-4


@dataclass(frozen=True)
class Spec:
    """What a contestant is given.

    Attributes:
        data, backbone: as on the command line.
        photos: `.npz` with the decoded photos and labels of both splits, for the peer.
        image_size: side in pixels.
        classes: their number.
        epochs: of training, or of each phase.
        augment: whether training photos are augmented.
        unfreezing: names of backbone layers that train, for each phase; empty: the head alone.
        trials: (dropout, learning rate) of each training; one where empty.
        views: as in a phase.
        seed: of training; the photos are divided by seed 0.
    """

    data: str
    backbone: str
    photos: str
    image_size: int
    classes: int
    epochs: int
    augment: bool = False
    unfreezing: tuple[tuple[str, ...], ...] = ((),)
    trials: tuple[tuple[float, float], ...] = ((0.2, HEAD_RATE),)
    views: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """What a contestant took, and what it reached.

    Attributes:
        seconds, cpu_seconds: wall and processor time.
        accuracy: on the test photos, the best among the trainings.
        saving: how many times fewer multiplications frozen work done once takes.
    """

    seconds: float
    cpu_seconds: float
    accuracy: float
    saving: float = 1.0


class _Clock:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def tfinetune(spec: Spec) -> Result:
    """Train with the feature cache, which starts empty."""
    import tfinetune as ft
    from tfinetune.array_store import ArrayStore
    from tfinetune.training import FeatureCache, Phase, run_phases

    splits = ft.data.from_image_folder(
        spec.data, image_size=spec.image_size, validation=0, test=0.3
    )
    backbone = ft.load_backbone(spec.backbone, image_size=spec.image_size)
    tuners = []
    with tempfile.TemporaryDirectory() as folder:
        clock = _Clock()
        cache = FeatureCache(ArrayStore(folder))
        for dropout, rate in spec.trials:
            tuner = ft.FineTuner(
                backbone, splits.spec, dropout=dropout, seed=spec.seed, cache=cache
            )
            phases = [
                Phase(
                    name=f"phase_{index}",
                    trainable=(*layers, "head"),
                    epochs=spec.epochs,
                    # The peers' rate stays; ours falls, on average to half of where it starts.
                    learning_rate=2 * (TUNING_RATE if layers else rate),
                    views=spec.views,
                )
                for index, layers in enumerate(spec.unfreezing)
            ]
            augment = "standard" if spec.augment else "none"
            run_phases(
                tuner.assembly,
                splits,
                phases=phases,
                batch_size=BATCH_SIZE,
                augment=augment,
                seed=spec.seed,
                cache=cache,
            )
            tuners.append((tuner, tuner.assembly.get_weights()))
        seconds = clock.read()
        accuracies = []
        for tuner, weights in tuners:
            tuner.assembly.set_weights(weights)
            accuracies.append(tuner.evaluate(splits.test)["accuracy"])
        work = tuner.frozen_work(splits, phases, augment=augment)
        return Result(*seconds, max(accuracies), _saving(work, trainings=len(tuners)))


def _saving(work: "FrozenWork", *, trainings: int) -> float:  # noqa: F821
    """Compare multiplications with and without a cache; a backward pass takes twice a forward's."""
    from tfinetune.training.frozen_prefix import FlatGraph

    graph = FlatGraph(work.assembly.logits_model)
    whole = graph.cuts(lambda operation: True)[-1].macs
    plain, cached = 0, 0
    prefixes = [0]
    for index, phase in enumerate(work.phases):
        frozen = graph.cuts(phase.plan(work.assembly).is_frozen)[-1].macs
        backward = 2 * (whole - frozen)
        cut = work.cuts[index]
        skipped = cut.macs if cut else 0
        plain += trainings * phase.epochs * (whole + backward)
        cached += trainings * phase.epochs * (whole - skipped + backward)
        prefixes.append(skipped * (work.views(index) or 1))
    return plain / (cached + max(prefixes))


def fresh_views(spec: Spec) -> Result:
    """Train with new views in every epoch: what cached views approximate."""
    return tfinetune(replace(spec, views="fresh"))


def plain_keras(spec: Spec) -> Result:
    """Train as https://keras.io/guides/transfer_learning/ does, frozen BatchNorm kept frozen."""
    import keras

    photos, base = _given(spec)
    layers = {layer.name: layer for layer in base.layers}
    models = []
    clock = _Clock()
    train_ds = _dataset(photos["train_images"], photos["train_labels"], shuffle=True)
    for dropout, rate in spec.trials:
        keras.utils.set_random_seed(spec.seed)
        model = _model(base, spec, dropout=dropout)
        for names in spec.unfreezing:
            base.trainable = True
            for name, layer in layers.items():
                is_norm = isinstance(layer, keras.layers.BatchNormalization)
                layer.trainable = name in names and not is_norm
            model.compile(
                optimizer=keras.optimizers.Adam(TUNING_RATE if names else rate),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=[keras.metrics.SparseCategoricalAccuracy()],
            )
            model.fit(train_ds, epochs=spec.epochs, verbose=0)
        models.append(model)
    seconds = clock.read()
    # Every training of a search has a head of its own on the one frozen base.
    return Result(*seconds, max(_accuracy(model, photos) for model in models))


def forward_pass_and_head(spec: Spec) -> Result:
    """Run the backbone once with `predict`, train a head on what it gave: the least possible."""
    import keras

    photos, base = _given(spec)
    clock = _Clock()
    keras.utils.set_random_seed(spec.seed)
    inputs = keras.Input((spec.image_size, spec.image_size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    body = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(base(x)))
    features = body.predict(_dataset(photos["train_images"], photos["train_labels"]), verbose=0)
    ((dropout, rate),) = spec.trials
    vectors = keras.Input(features.shape[1:])
    dropped = keras.layers.Dropout(dropout)(vectors)
    head = keras.Model(vectors, keras.layers.Dense(spec.classes)(dropped))
    head.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    head.fit(features, photos["train_labels"], BATCH_SIZE, epochs=spec.epochs, verbose=0)
    seconds = clock.read()
    return Result(*seconds, _accuracy(keras.Model(inputs, head(body(inputs))), photos))


CONTESTANTS: Sequence[Callable[[Spec], Result]] = (
    tfinetune,
    fresh_views,
    plain_keras,
    forward_pass_and_head,
)


def _given(spec: Spec) -> tuple[dict[str, np.ndarray], "keras.Model"]:  # noqa: F821
    from benchmarks.keras_recipe import open_base

    with np.load(spec.photos) as photos:
        arrays = dict(photos)
    return arrays, open_base(spec.backbone, image_size=spec.image_size)


def _dataset(images: np.ndarray, labels: np.ndarray, *, shuffle: bool = False) -> "tf.data.Dataset":  # noqa: F821
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    dataset = dataset.map(lambda image, label: (tf.cast(image, tf.float32), label))
    if shuffle:
        dataset = dataset.shuffle(len(images))
    return dataset.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def _model(base: "keras.Model", spec: Spec, *, dropout: float) -> "keras.Model":  # noqa: F821
    from keras import Input, Model, layers

    inputs = Input((spec.image_size, spec.image_size, 3))
    x = inputs
    if spec.augment:
        x = layers.RandomFlip("horizontal")(x)
        x = layers.RandomRotation(15 / 360)(x)
        x = layers.RandomZoom(0.15)(x)
        x = layers.RandomTranslation(0.08, 0.08)(x)
        x = layers.RandomBrightness(0.1)(x)
        x = layers.RandomContrast(0.2)(x)
        x = layers.RandomSaturation((0.4, 0.6))(x)
    x = layers.Rescaling(scale=1 / 127.5, offset=-1)(x)
    x = layers.GlobalAveragePooling2D()(base(x))
    return Model(inputs, layers.Dense(spec.classes)(layers.Dropout(dropout)(x)))


def _accuracy(model: "keras.Model", photos: dict[str, np.ndarray]) -> float:  # noqa: F821
    logits = model.predict(_dataset(photos["test_images"], photos["test_labels"]), verbose=0)
    return float(np.mean(logits.argmax(-1) == photos["test_labels"]))
