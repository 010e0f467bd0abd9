"""Discriminative learning rates: layers near the input move less than layers near the head.

Howard & Ruder 2018, "Universal Language Model Fine-tuning for Text Classification".
"""

from collections.abc import Mapping
from typing import Any, Literal

import keras
import tensorflow as tf

from tfinetune.adaptation.rules import groups_of
from tfinetune.assembly import Assembly


def group_multipliers(groups: list[str], layer_decay: float) -> dict[str, float]:
    """Return a multiplier per group: 1 for the last, times `layer_decay` for each one before.

    Args:
        groups: group names from input to head.
        layer_decay: in (0, 1]; 1 gives every group the same rate.
    """
    last = len(groups) - 1
    return {name: layer_decay ** (last - depth) for depth, name in enumerate(groups)}


class Layerwise:
    """Mixed into a Keras optimizer: its update (not the gradient, which Adam would cancel) is
    scaled per variable.

    Args:
        learning_rate: rate of a variable whose multiplier is 1; float or schedule.
        layer_decay: with `assembly`, multiplies the rate once for every group between a
            variable's group and the head; in (0, 1].
        assembly: the model whose groups give each variable its depth.
        multipliers: multiplier per position among the trainable variables; what `assembly`
            computes and what a saved optimizer carries.
        **arguments: of the Keras optimizer.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        *,
        layer_decay: float = 1.0,
        assembly: Assembly | None = None,
        multipliers: list[float] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **arguments)
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay}.")
        if layer_decay != 1 and assembly is None and multipliers is None:
            raise ValueError(
                f"layer_decay={layer_decay} needs the layer groups: pass assembly=tuner.assembly."
            )
        self.layer_decay = layer_decay
        self.multipliers = list(multipliers) if multipliers is not None else None
        # By identity: `variable.path` is not unique once models are nested.
        self._by_variable = _variable_multipliers(assembly, layer_decay) if assembly else None

    def build(self, variables: list[keras.Variable]) -> None:
        """Fix a multiplier for every variable that trains."""
        if self._by_variable is not None:
            self.multipliers = [self._by_variable.get(id(v), 1.0) for v in variables]
        if self.multipliers is None:
            self.multipliers = [1.0] * len(variables)
        if len(self.multipliers) != len(variables):
            raise ValueError(
                f"{len(self.multipliers)} multipliers were given for {len(variables)} variables."
            )
        super().build(variables)

    def update_step(
        self, gradient: Any, variable: Any, learning_rate: Any
    ) -> None:  # called by keras.optimizers.Optimizer for each variable
        """Update one variable at its own rate."""
        multiplier = self.multipliers[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * multiplier)

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        # The stock method decays at the global rate, which would shrink slow layers too fast.
        if self.weight_decay is None:
            return
        global_rate = self.learning_rate  # a schedule adds its operations whenever it is asked
        for variable in variables:
            if self._use_weight_decay(variable):
                multiplier = self.multipliers[self._get_variable_index(variable)]
                rate = keras.ops.cast(global_rate * multiplier, variable.dtype)
                decay = keras.ops.cast(self.weight_decay, variable.dtype)
                variable.assign(variable - variable * decay * rate)

    def _backend_apply_gradients(self, grads: list[Any], trainable_variables: list[Any]) -> None:
        # Keras sums over the replicas what each has clipped, which one device would not compute.
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            grads = list(replica.merge_call(_summed, args=tuple(grads)))
        super()._backend_apply_gradients(grads, trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars: list[tuple]) -> list[tuple]:
        # They are summed. Keras's `all_reduce` would enter its own gradient in a registry that
        # keeps the graph of every `fit` for good, of one device too: 15 MiB a trial in a search.
        return grads_and_vars

    def get_config(self) -> dict[str, Any]:
        """Return everything needed to rebuild the optimizer."""
        return {
            **super().get_config(),
            "layer_decay": self.layer_decay,
            "multipliers": self.multipliers,
        }


@keras.saving.register_keras_serializable(package="tfinetune")
class AdamW(Layerwise, keras.optimizers.AdamW):
    """AdamW with a rate for each layer, see `Layerwise`.

    Example:
        >>> import keras, tfinetune as ft
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(ft.optimizers.AdamW(1e-3, multipliers=[0.5, 1.0]), "mse")
    """


@keras.saving.register_keras_serializable(package="tfinetune")
class Lion(Layerwise, keras.optimizers.Lion):
    """Lion (Chen et al. 2023) with a rate for each layer; good rates are 3 to 10 times smaller."""


@keras.saving.register_keras_serializable(package="tfinetune")
class SGD(Layerwise, keras.optimizers.SGD):
    """SGD with Nesterov momentum and a rate for each layer; good rates are 10 to 100 times larger
    than AdamW's."""

    def __init__(
        self,
        learning_rate: Any = 1e-2,
        *,
        momentum: float = 0.9,
        nesterov: bool = True,
        **arguments: Any,
    ) -> None:
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, **arguments)


OptimizerName = Literal["adamw", "lion", "sgd"]
OPTIMIZERS: dict[OptimizerName, type[Layerwise]] = {"adamw": AdamW, "lion": Lion, "sgd": SGD}


def _summed(strategy: tf.distribute.Strategy, *gradients: Any) -> list[Any]:
    pairs = [(gradient, gradient) for gradient in gradients]
    return strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)


def _variable_multipliers(assembly: Assembly, layer_decay: float) -> Mapping[int, float]:
    groups = groups_of(assembly)
    multipliers = group_multipliers(list(groups), layer_decay)
    return {
        id(variable): multipliers[name]
        for name, layers in groups.items()
        for layer in layers
        for variable in layer.variables
    }
