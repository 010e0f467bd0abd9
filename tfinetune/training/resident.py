"""Epochs on features that lie in memory: each is one call of one graph.

Behind a frozen backbone a step multiplies two small matrices, and what Keras's `fit` does around it
(iterators, calls, a data set that Python serves) takes most of the time: a head of ten epochs of 23
steps took 2.1 s of processor time, and takes 0.9. Here batches are gathered from tensors inside a
loop in the graph, with Keras's own `train_step`, in the order of `fit`: the weights are the same.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfinetune.data import Split
from tfinetune.training.feature_cache import CachedExamples

MOST_BYTES = 2**29
"""Of features, past which they stay where they are: tensors are a copy."""

STEPS_PER_CALL = 100
"""After which Python sees a bar move, and Ctrl-C."""


def is_resident(split: Split) -> bool:
    """Return whether the examples of a split are features in memory, few enough for tensors."""
    if not isinstance(split.examples, CachedExamples):
        return False
    arrays = [array for view in split.examples.views for array in view]
    return (
        not any(isinstance(array, np.memmap) for array in arrays)
        and sum(array.nbytes for array in arrays) <= MOST_BYTES
    )


class ResidentEpochs:
    """Training and validation epochs of a compiled model.

    Args:
        model: takes the features of the splits.
        train, validation: of which `is_resident` holds.
        batch_size: the last batch of an epoch may be smaller.
        seed: of the order.
        class_weights: of the loss, as `fit` takes them.
    """

    def __init__(
        self,
        model: keras.Model,
        train: Split,
        validation: Split | None,
        *,
        batch_size: int,
        seed: int,
        class_weights: dict[int, float] | None = None,
    ) -> None:
        self._model, self._train, self._validation = model, train, validation
        self._batch_size, self._seed = batch_size, seed
        self._train_views = _tensors(train)
        self._validation_features = validation and _tensors(validation)[0]
        self._targets = [tf.constant(train.labels)]
        if class_weights:
            weights = np.array([class_weights[label] for label in sorted(class_weights)], "float32")
            self._targets.append(tf.constant(weights[train.labels]))
        self._train_steps = self._loop(
            model.train_step, train, like=(self._train_views[0], self._targets)
        )
        if validation is not None:
            self._validation_targets = [tf.constant(validation.labels)]
            self._test_steps = self._loop(
                model.test_step,
                validation,
                like=(self._validation_features, self._validation_targets),
            )

    def fit(self, epochs: range, *, first_epoch: int, callback: keras.callbacks.Callback) -> None:
        """Train and validate until the last epoch, or until the model's `stop_training`.

        Args:
            epochs: numbers that the callback is told.
            first_epoch: what epoch 0 is to the order of the examples and their views.
            callback: told the number of the last batch now and then, and the end of every epoch.
        """
        callback.set_model(self._model)
        self._model.stop_training = False
        for epoch in epochs:
            logs = self._train_epoch(first_epoch + epoch, callback)
            if self._validation is not None:
                logs |= {f"val_{name}": value for name, value in self._validate().items()}
            callback.on_epoch_end(epoch, logs)
            if self._model.stop_training:
                break

    def _train_epoch(self, epoch: int, callback: keras.callbacks.Callback) -> dict[str, float]:
        self._model.reset_metrics()
        order = self._train.order(epoch, seed=self._seed)
        features = self._train_views[epoch % len(self._train_views)]
        for start in range(0, len(order), STEPS_PER_CALL * self._batch_size):
            some = order[start : start + STEPS_PER_CALL * self._batch_size]
            self._train_steps(features, self._targets, some)
            callback.on_train_batch_end((start + len(some) - 1) // self._batch_size)
        return self._results()

    def _validate(self) -> dict[str, float]:
        self._model.reset_metrics()
        rows = tf.range(len(self._validation))
        self._test_steps(self._validation_features, self._validation_targets, rows)
        return self._results()

    def _results(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._model.get_metrics_result().items()}

    def _loop(
        self,
        step: Callable[[Any], Any],
        split: Split,
        *,
        like: tuple[list[tf.Tensor], list[tf.Tensor]],
    ) -> Callable[..., None]:
        """Return a function of (features, labels and weights, rows) that runs a step per batch.

        Args:
            step: the model's `train_step` or `test_step`.
            split: gives the types that the model takes.
            like: features, labels and weights as they will come.
        """
        dtypes, batch_size = split.examples.dtypes, self._batch_size

        @tf.function(autograph=False)
        def run(
            features: Sequence[tf.Tensor], targets: Sequence[tf.Tensor], rows: tf.Tensor
        ) -> None:
            def one_step(start: tf.Tensor) -> tuple[tf.Tensor]:
                batch = rows[start : start + batch_size]
                inputs = [
                    tf.cast(tf.gather(array, batch), dtype)
                    for array, dtype in zip(features, dtypes, strict=True)
                ]
                given = inputs[0] if len(inputs) == 1 else tuple(inputs)
                step((given, *(tf.gather(target, batch) for target in targets)))
                return (start + batch_size,)

            first = [tf.constant(0)]
            more = functools.partial(tf.greater, tf.size(rows))
            tf.while_loop(more, one_step, first, parallel_iterations=1)

        specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, like)
        return run.get_concrete_function(*specs, tf.TensorSpec([None], tf.int32))


def _tensors(split: Split) -> list[list[tf.Tensor]]:
    return [[tf.constant(array) for array in view] for view in split.examples.views]
