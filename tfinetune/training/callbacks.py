"""Callbacks for people who call `fit` themselves."""

import keras
import numpy as np
from keras import ops

from tfinetune.errors import TrainablePlanError


class FrozenGuard(keras.callbacks.Callback):
    """Fail when `fit` moves a weight of a frozen layer, BatchNorm statistics included.

    In Keras 3 `base(x, training=False)` does not stop `fit` from moving the statistics of a frozen
    backbone, and nothing says so. This callback does.

    Args:
        layer: the model or layer whose non-trainable weights must not move, BatchNorm statistics
            included even where its scale trains. None watches the layers of the whole model that
            train nothing.

    Raises:
        TrainablePlanError: at the end of training, naming the weights that moved.

    Example:
        >>> import tfinetune as ft
        >>> guard = ft.callbacks.FrozenGuard()  # model.fit(..., callbacks=[guard])
    """

    def __init__(self, layer: keras.Layer | None = None) -> None:
        super().__init__()
        self._layer = layer
        self._before: list[tuple[keras.Variable, np.ndarray]] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Copy the weights that must not move."""
        if self._layer is not None:
            frozen = self._layer.non_trainable_weights
        else:
            frozen = [
                weight
                for layer in self.model._flatten_layers(include_self=True, recursive=True)
                if not layer.trainable_weights
                for weight in layer.weights
            ]
        self._before = [(weight, np.copy(ops.convert_to_numpy(weight))) for weight in frozen]

    def on_train_end(self, logs: dict | None = None) -> None:
        """Compare them."""
        moved = [
            weight.path
            for weight, before in self._before
            if not np.array_equal(ops.convert_to_numpy(weight), before, equal_nan=True)
        ]
        if moved:
            raise TrainablePlanError(
                f"{len(moved)} frozen weights moved during training: {', '.join(moved[:5])}. "
                "For BatchNorm set `layer.trainable = False` on the layers themselves "
                "(`tuner.set_trainable` does)."
            )
