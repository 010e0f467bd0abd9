"""Run a model over a data set: deterministic, and with its variables as constants.

Constants let the graph optimizer fuse convolution, batch normalization and activation, which
`model.predict` cannot since its variables may change.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfinetune.data import decode_files
from tfinetune.errors import DataError
from tfinetune.reporting import Advance, Reporter

ConstantFunction = Callable[[Any], Any]

_NOISE_ATTRIBUTES = ("rate", "stddev", "dropout", "recurrent_dropout")


def noise(layer: keras.Layer) -> dict[str, float]:
    """Return how much a layer drops or disturbs while training, by attribute."""
    if not layer._seed_generators:
        return {}
    amounts = {name: getattr(layer, name, None) for name in _NOISE_ATTRIBUTES}
    return {name: amount for name, amount in amounts.items() if isinstance(amount, float | int)}


@contextlib.contextmanager
def silenced(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Switch off dropout and noise of layers in whatever is traced within."""
    before = [(layer, noise(layer)) for layer in layers]
    for layer, amounts in before:
        for name in amounts:
            setattr(layer, name, 0.0)
    try:
        yield
    finally:
        for layer, amounts in before:
            for name, amount in amounts.items():
                setattr(layer, name, amount)


def constant_function(model: keras.Model) -> ConstantFunction:
    """Freeze a functional model as it is now.

    Args:
        model: any number of inputs and outputs; later changes of its weights do not reach the
            returned function.

    Returns:
        A function from a batch (a tensor, or several nested as in `model.input`) to the model's
        output in inference mode: a tensor, or a list where the model has several outputs.
    """
    inputs = keras.tree.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), model.input)
    function = tf.function(lambda batch: model(batch, training=False))
    # A recurrent layer draws its dropout masks, and counts that, in inference mode too.
    with silenced(model._flatten_layers()):
        frozen = convert_variables_to_constants_v2(function.get_concrete_function(inputs))
    dtypes = [spec.dtype for spec in tf.nest.flatten(inputs)]

    def run(batch: Any) -> Any:
        tensors = map(tf.cast, tf.nest.flatten(batch), dtypes)
        outputs = frozen(*tensors)
        return outputs[0] if len(outputs) == 1 else outputs

    return run


def latency_ms(model: keras.Model, *, repeats: int = 15) -> float:
    """Return the median milliseconds that a functional model takes for one example."""
    function = constant_function(model)
    batch = keras.tree.map_structure(
        lambda t: np.zeros((1, *(size or 1 for size in t.shape[1:])), t.dtype), model.input
    )
    function(batch)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        keras.tree.map_structure(keras.ops.convert_to_numpy, function(batch))
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def predict(
    function: ConstantFunction, batches: Iterable, *, total: int, advance: Advance | None = None
) -> np.ndarray:
    """Run `function` over batches and join the outputs.

    Args:
        function: what `constant_function` returned, of a model with one output.
        batches: batches of inputs, or (inputs, labels) as a split's dataset gives them.
        total: number of examples; the last batch may be short.
        advance: told (examples done, total).

    Returns:
        float32 array `[total, …]`, in the order of the batches.
    """
    outputs: list[np.ndarray] = []
    done = 0
    for batch in batches:
        inputs = batch[0] if isinstance(batch, tuple) else batch
        output = function(inputs).numpy()
        outputs.append(output)
        done += len(output)
        if advance is not None:
            advance(done, total)
    return np.concatenate(outputs)


def predict_files(
    model: keras.Model,
    files: Sequence[str | Path],
    *,
    aspect: str,
    reporter: Reporter | None = None,
    chunk: int = 512,
) -> tuple[np.ndarray, dict[int, str]]:
    """Classify image files with any model that takes images of 0..255.

    Args:
        model: image -> probabilities.
        files: paths; decoded `chunk` at a time, so that a large folder does not fill the memory.
        aspect: how photos are brought to the model's size.
        reporter: shows progress.
        chunk: files in memory at a time.

    Returns:
        Probabilities `[n, classes]` (zeros where a file cannot be read) and the reason for each
        position that could not.

    Raises:
        DataError: if `files` is empty.
    """
    if not files:
        raise DataError("There is no file to predict. Name image files or a folder of them.")
    function = constant_function(model)
    parts, failures = [], {}
    with (reporter or Reporter()).bar("predicting") as advance:
        for start in range(0, len(files), chunk):
            some = files[start : start + chunk]
            images, unread = decode_files(some, image_size=model.input_shape[1:3], aspect=aspect)
            batches = tf.data.Dataset.from_tensor_slices(images).batch(64)
            probabilities = predict(function, batches, total=len(some)).copy()
            probabilities[list(unread)] = 0
            parts.append(probabilities)
            failures.update({start + index: reason for index, reason in unread.items()})
            advance(start + len(some), len(files))
    return np.concatenate(parts), failures
