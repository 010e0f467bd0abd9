"""Which `tf.distribute` strategy a run trains under, and what it cannot do.

A variable belongs to the strategy in whose scope it was made, so a backbone is opened, and its head
made, in the scope that it trains in. Every replica takes an equal share of each batch and the sum
of their gradients moves all copies: weights, rates and metrics are those of one device.

Only the steps of an optimizer are shared out. Features of frozen layers, logits after training and
exports come from the first device. Dropout draws the same mask for each share. Several machines
are not supported: `fit` of Keras 3.15 fails under `MultiWorkerMirroredStrategy`. The workers of a
search may be on many, each with a strategy of its own.
"""

import functools
import os
from collections.abc import Collection
from typing import Any, get_args

import keras
import tensorflow as tf

from tfinetune.errors import DeviceError
from tfinetune.recipe import DistributionName


def device_strategy(name: DistributionName) -> tf.distribute.Strategy:
    """Return the strategy of a name, the same one whenever a process asks.

    Args:
        name: `none` is the strategy in whose scope it is called, without one a single device.
            `mirrored` takes all GPUs that the process sees (`CUDA_VISIBLE_DEVICES` says which),
            without any all logical CPUs; a single one needs no strategy. `tpu` takes the TPU that
            `TPU_NAME` names, or that of this machine.

    Raises:
        DeviceError: if there is no such strategy, or no TPU.

    Example:
        >>> device_strategy("mirrored").num_replicas_in_sync  # doctest: +SKIP
        2
    """
    if name == "tpu":
        return _tpu()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) > 1:
            return _mirrored(*(device.name for device in devices))
    elif name != "none":
        known = ", ".join(get_args(DistributionName))
        raise DeviceError(f"There is no way {name!r} to distribute training. Known: {known}.")
    return tf.distribute.get_strategy()


# Variables of one strategy cannot be used in the scope of another, even of its twin.
@functools.cache
def _mirrored(*devices: str) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(devices)


@functools.cache
def _tpu() -> tf.distribute.Strategy:
    """Connect to a TPU. Written after TensorFlow's guide; it never ran on one."""
    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu=name)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, OSError, RuntimeError, ValueError) as error:
        raise DeviceError(
            f"No TPU can be used as {name!r}: {' '.join(str(error).split())[:200]}. Set TPU_NAME "
            "to one, or train with distribute='mirrored' (GPUs) or 'none'."
        ) from error


def is_distributed() -> bool:
    """Return whether this is the scope of a strategy."""
    return tf.distribute.has_strategy()


def replicas() -> int:
    """Return among how many devices the present scope shares its batches out."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def check_made_here(model: keras.Model) -> None:
    """Refuse a model whose variables are not those of the present scope.

    Raises:
        DeviceError: if they cannot train in it.
    """
    extended = tf.distribute.get_strategy().extended
    if not all(extended.variable_created_in_scope(v.value) for v in model.variables):
        raise DeviceError(
            "The backbone was opened outside the strategy's scope that it is to train in. Give "
            "FineTuner its file, name or keras.Model instead, or open it in `with "
            "ft.distribution.device_strategy('mirrored').scope():`."
        )


def check_can_share(model: keras.Model, *, batch_norm: Collection[str], precision: str) -> None:
    """Refuse what several replicas could not train, or not to the weights of one device.

    Args:
        model: that trains.
        batch_norm: policies of the phases.
        precision: that they train in.

    Raises:
        DeviceError: if the present scope has several replicas and one of these is among it.
    """
    if replicas() == 1:
        return
    if any(tensor.dtype == "string" for tensor in model.inputs):
        raise DeviceError(
            "A model of texts cannot be distributed: Keras 3.15 averages the shares of a first "
            "batch, which strings do not allow. Use distribute='none'."
        )
    if "adapt" in batch_norm:
        raise DeviceError(
            "batch_norm='adapt' cannot be distributed: each replica would normalize by statistics "
            "of its own share of a batch. Use batch_norm='frozen', or distribute='none'."
        )
    if precision == "mixed_float16":
        raise DeviceError(
            "mixed_float16 cannot be distributed: Keras 3.15 looks at the first replica alone when "
            "it skips a step that overflowed. Use precision='mixed_bfloat16', or 'float32'."
        )


def share_out(batches: tf.data.Dataset, *, batch_size: int) -> tf.data.Dataset:
    """Fill up batches so that every replica gets equally many examples and none gets none.

    Examples that fill up a batch are of the same batch and weigh nothing; those that count weigh so
    much more that the loss stays the mean over them alone.

    Args:
        batches: inputs, labels [b] or [b, classes] and perhaps weights [b]; b up to `batch_size`.
        batch_size: of a full batch.

    Returns:
        Inputs, labels and weights, all batches of one size.
    """
    size = -(-batch_size // replicas()) * replicas()

    @tf.autograph.experimental.do_not_convert
    def fill(inputs: Any, labels: tf.Tensor, weights: tf.Tensor | None = None) -> tuple:
        count = tf.shape(labels)[0]
        rows = tf.range(size) % count

        def filled(tensor: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.gather(tensor, rows), [size, *tensor.shape[1:]])

        weight = filled(tf.ones([count]) if weights is None else weights)
        counted = tf.cast(tf.range(size) < count, tf.float32) * tf.cast(size / count, tf.float32)
        return tf.nest.map_structure(filled, inputs), filled(labels), weight * counted

    return batches.map(fill, num_parallel_calls=tf.data.AUTOTUNE)
