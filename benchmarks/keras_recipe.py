"""The peer: the two-phase recipe of keras.io's "Transfer learning & fine-tuning" guide.

Written as https://keras.io/guides/transfer_learning/ writes it: decoded photos cached and
prefetched in batches of 32, RandomFlip and RandomRotation layers, scaling to [-1, 1], the base
called with `training=False`, Dropout 0.2; the head at Adam's default rate of 1e-3, then the whole
model at 1e-5. Only the number of classes and the list of files differ from the guide. Photos are
decoded and resized as `keras.utils.image_dataset_from_directory` does it by default.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

BATCH_SIZE = 32
Photos = Sequence[tuple[str, int]]
"""Path and class index of each photo."""


@dataclass(frozen=True)
class Stage:
    """The model after one phase: probabilities [n, classes] for the test photos and the cost.

    `seconds` and `cpu_seconds` count the phase's own work, the first one's with reading the
    backbone and the photos; predicting the test photos is not counted.
    """

    name: str
    probabilities: np.ndarray
    seconds: float
    cpu_seconds: float


def train(
    train_photos: Photos,
    test_photos: Photos,
    *,
    backbone: str | Path,
    image_size: int,
    classes: int,
    head_epochs: int = 10,
    whole_epochs: int = 10,
    seed: int = 0,
) -> list[Stage]:
    """Run the recipe and return the model's answers after the head and after the whole model.

    Args:
        train_photos: What to learn from; all of it, the guide's validation set selects nothing.
        test_photos: What to predict, in order.
        backbone: A `.keras` or `.h5` file without top that expects pixels in [-1, 1].
        image_size: Side in pixels of the square photos.
        classes: Number of classes.
        head_epochs: Passes with a frozen base.
        whole_epochs: Passes with everything trained.
        seed: Of Keras, NumPy and TensorFlow.
    """
    keras.utils.set_random_seed(seed)
    clock = _Clock()
    train_ds = load_photos(train_photos, image_size=image_size).cache()
    train_ds = train_ds.shuffle(len(train_photos)).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    base_model = open_base(backbone, image_size=image_size)
    base_model.trainable = False

    inputs = keras.Input((image_size, image_size, 3))
    x = keras.layers.RandomFlip("horizontal")(inputs)
    x = keras.layers.RandomRotation(0.1)(x)
    x = keras.layers.Rescaling(scale=1 / 127.5, offset=-1)(x)
    x = base_model(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inputs, keras.layers.Dense(classes)(x))

    def fit(rate: float, epochs: int) -> None:
        model.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy()],
        )
        model.fit(train_ds, epochs=epochs, verbose=0)

    test_ds = load_photos(test_photos, image_size=image_size).batch(BATCH_SIZE)
    fit(1e-3, head_epochs)
    head = clock.stage("head", lambda: _predict(model, test_ds))
    base_model.trainable = True
    fit(1e-5, whole_epochs)
    return [head, clock.stage("whole", lambda: _predict(model, test_ds))]


def load_photos(photos: Photos, *, image_size: int) -> tf.data.Dataset:
    """Read photos as `image_dataset_from_directory` does: float32 [h, w, 3] in 0..255, label."""
    paths, labels = zip(*photos, strict=True)

    def read(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        image = tf.image.resize(image, (image_size, image_size), method="bilinear")
        image.set_shape((image_size, image_size, 3))
        return image, label

    dataset = tf.data.Dataset.from_tensor_slices((list(paths), np.array(labels, np.int32)))
    return dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)


def open_base(path: str | Path, *, image_size: int) -> keras.Model:
    """Open a fully convolutional model and rebuild it for another input size."""
    saved = keras.models.load_model(path, compile=False)
    config = saved.get_config()
    config["layers"][0]["config"]["batch_shape"] = (None, image_size, image_size, 3)
    base = keras.Model.from_config(config)
    base.set_weights(saved.get_weights())
    return base


def _predict(model: keras.Model, dataset: tf.data.Dataset) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.softmax(model.predict(dataset, verbose=0)))


class _Clock:
    """Wall and processor time between stages, stopped while a stage is looked at."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stage(self, name: str, predict: Callable[[], np.ndarray]) -> Stage:
        seconds = time.perf_counter() - self._wall
        cpu_seconds = time.process_time() - self._cpu
        stage = Stage(name, predict(), seconds, cpu_seconds)
        self._start()
        return stage
