"""Run a model over a data set: deterministic, and with its variables as constants.

Constants let the graph optimizer fuse convolution, batch normalization and activation, which
`model.predict` cannot since its variables may change.
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfinetune.reporting import Advance

ConstantFunction = Callable[[Any], Any]


def constant_function(model: keras.Model) -> ConstantFunction:
    """Freeze a functional model as it is now.

    Args:
        model: any number of inputs and outputs; later changes of its weights do not reach the
            returned function.

    Returns:
        A function from a batch, nested as `model.input`, to the model's output in inference mode:
        a tensor, or a list where the model has several outputs.
    """
    inputs = keras.tree.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), model.input)
    function = tf.function(lambda batch: model(batch, training=False))
    frozen = convert_variables_to_constants_v2(function.get_concrete_function(inputs))
    dtypes = [spec.dtype for spec in tf.nest.flatten(inputs)]

    def run(batch: Any) -> Any:
        tensors = map(tf.cast, tf.nest.flatten(batch), dtypes)
        outputs = frozen(*tensors)
        return outputs[0] if len(outputs) == 1 else outputs

    return run


def predict(
    function: ConstantFunction, batches: Iterable, *, total: int, advance: Advance | None = None
) -> np.ndarray:
    """Run `function` over batches and join the outputs.

    Args:
        function: what `constant_function` returned, of a model with one output.
        batches: image batches, or (images, labels) as a split's dataset gives them.
        total: number of examples; the last batch may be short.
        advance: told (examples done, total).

    Returns:
        float32 array `[total, …]`, in the order of the batches.
    """
    outputs: list[np.ndarray] = []
    done = 0
    for batch in batches:
        images = batch[0] if isinstance(batch, tuple) else batch
        output = function(images).numpy()
        outputs.append(output)
        done += len(output)
        if advance is not None:
            advance(done, total)
    return np.concatenate(outputs)
