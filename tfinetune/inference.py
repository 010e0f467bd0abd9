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

ConstantFunction = Callable[[Any], tf.Tensor]


def constant_function(model: keras.Model) -> ConstantFunction:
    """Freeze a model of one output as it is now.

    Args:
        model: any model; later changes of its weights do not reach the returned function.

    Returns:
        A function from a batch (a tensor, or a dict of them by input name) to the model's output in
        inference mode.
    """
    specs = keras.tree.map_structure(
        lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), model.input
    )
    function = tf.function(lambda batch: model(batch, training=False))
    concrete = function.get_concrete_function(specs)
    # In the order of the graph's own arguments, which a dict need not have.
    dtypes = keras.tree.map_structure(lambda spec: spec.dtype, specs)
    frozen = convert_variables_to_constants_v2(concrete)

    def run(batch: Any) -> tf.Tensor:
        cast = tf.nest.map_structure(tf.cast, batch, dtypes)
        return frozen(*tf.nest.flatten(cast))[0]

    return run


def predict(
    function: ConstantFunction, batches: Iterable, *, total: int, advance: Advance | None = None
) -> np.ndarray:
    """Run `function` over batches and join the outputs.

    Args:
        function: what `constant_function` returned.
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
