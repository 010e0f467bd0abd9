"""A SavedModel as one trainable Keras layer, whose variables are grouped by scope.

The one custom class that may reach a `model.keras`: the file then carries the SavedModel inside,
and tfinetune is needed to load it (`import tfinetune.backbones` registers the class).
"""

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfinetune.backbones.graph import alone
from tfinetune.backbones.saved_model_endpoints import (
    Endpoint,
    StoredVariable,
    Tensor,
    find_endpoints,
    named,
)
from tfinetune.errors import BackboneError
from tfinetune.security.saved_model import read_saved_model
from tfinetune.security.saved_model_loading import PreparedSavedModel, load_graph, prepare


class VariableScope(keras.layers.Layer):
    """The variables of one scope of a SavedModel, such as those of `block_1/conv`.

    Computes nothing itself: it gives a scope the name and the flag that layer rules work on.
    """

    def __init__(self, scope: str, variables: Iterable[StoredVariable]) -> None:
        super().__init__(name=scope.replace("/", "_"), dtype="float32")
        self._scope = scope
        # Keras and TensorFlow would track a list, as if there were layers in it.
        self._stored = tuple(variables)

    @property
    def path(self) -> str:
        """The scope as the SavedModel names it."""
        return self._scope

    @property
    def is_batch_norm(self) -> bool:
        """Whether the scope holds moving statistics and no kernel."""
        vectors = all(len(variable.shape) <= 1 for variable in self._stored)
        return vectors and any("moving_" in _leaf(variable) for variable in self._stored)

    def build(self) -> None:
        """Make the variables, to be filled by whoever loads the SavedModel."""
        for variable in self._stored:
            self.add_weight(
                name=_leaf(variable),
                shape=variable.shape,
                dtype=variable.dtype,
                trainable=variable.trainable,
                initializer="zeros",
                autocast=False,
            )
        self.built = True

    def by_name(self) -> dict[str, tf.Variable]:
        """Return the variables under the names that the SavedModel knows them by."""
        weights = {weight.name: weight.value for weight in self.weights}
        return {variable.name: weights[_leaf(variable)] for variable in self._stored}


@keras.saving.register_keras_serializable(package="tfinetune")
class SavedModelLayer(keras.layers.Layer):
    """One endpoint of a SavedModel, trainable scope by scope.

    The SavedModel's training mode (dropout, batch statistics) covers all of it or nothing: it is
    used only while every scope trains, so that what is frozen stays as it is. Computes in the
    precision in which the SavedModel was written.

    Args:
        endpoint: what to call, with the outputs that are returned.
        frozen: names of the scopes that do not train.
        **arguments: of `keras.layers.Layer`.
    """

    def __init__(
        self, *, endpoint: Endpoint | dict[str, Any], frozen: Sequence[str] = (), **arguments: Any
    ) -> None:
        # It casts to what the graph takes itself: 16 bits on the way there would only lose some.
        super().__init__(**{**arguments, "dtype": "float32", "autocast": False})
        self.endpoint = (
            endpoint if isinstance(endpoint, Endpoint) else Endpoint.from_config(endpoint)
        )
        self.scopes = _scopes(self.endpoint.variables)
        for scope in self.scopes:
            scope.trainable = scope.path not in frozen
        self._prepared: PreparedSavedModel | None = None
        self._loaded: Any = None

    def build(self, input_shape: Any) -> None:
        """Make the variables of every scope."""
        for scope in self.scopes:
            if not scope.built:
                scope.build()
        self.built = True

    def attach(self, prepared: PreparedSavedModel, *, keep_weights: bool = False) -> None:
        """Load the SavedModel onto the layer's variables.

        Args:
            prepared: what `security.saved_model_loading.prepare` returned.
            keep_weights: keep the layer's values; otherwise the stored ones are taken.

        Raises:
            BackboneError: if TensorFlow cannot load it, or it is not what the layer was made for.
        """
        stored = find_endpoints(prepared.meta_graph).get(self.endpoint.name)
        if stored is None or stored.variables != self.endpoint.variables:
            raise BackboneError(
                f"The SavedModel of the layer {self.name!r} is another one than its config "
                "describes. Save the model again."
            )
        self.build(None)
        kept = self.get_weights() if keep_weights else None
        variables = {
            name: value for scope in self.scopes for name, value in scope.by_name().items()
        }
        self._loaded = load_graph(prepared, variables)
        self._prepared = prepared
        if kept is not None:
            self.set_weights(kept)

    def call(self, inputs: Any, training: bool | None = False) -> Any:
        """Return the output of the endpoint, or a list of several.

        Args:
            inputs: one tensor, or tensors by name where the endpoint takes several.
            training: whether the SavedModel may use its training mode; see the class.
        """
        if self._loaded is None:
            raise BackboneError(
                f"The layer {self.name!r} was made from its config alone, without the SavedModel "
                "it stands for. Load the whole model, or call load_backbone again."
            )
        if training:
            for index in range(self.endpoint.regularization_losses):
                self.add_loss(self._loaded.regularization_losses[index]())
        given = inputs if isinstance(inputs, dict) else {self.endpoint.inputs[0].name: inputs}
        tensors = {t.name: _cast(given[t.name], t.dtype) for t in self.endpoint.inputs}
        answer = named(self._answer(tensors, training=bool(training)))
        return alone([answer[output.name] for output in self.endpoint.outputs])

    def compute_output_spec(self, inputs: Any, training: bool | None = False) -> Any:
        """Return the shape and type of the outputs, having asked the SavedModel if need be."""
        if any(not output.shape or None in output.shape[1:] for output in self.endpoint.outputs):
            self.endpoint = replace(self.endpoint, outputs=self._measured_outputs())
        batch = keras.tree.flatten(inputs)[0].shape[0]
        return alone(
            [
                keras.KerasTensor((batch, *output.shape[1:]), dtype=output.dtype)
                for output in self.endpoint.outputs
            ]
        )

    def get_config(self) -> dict[str, Any]:
        """Return everything but the SavedModel itself, which `save_assets` writes."""
        return {
            **super().get_config(),
            "endpoint": asdict(self.endpoint),
            "frozen": [scope.path for scope in self.scopes if not scope.trainable],
        }

    def save_assets(self, path: str) -> None:
        """Write the SavedModel into the folder `path`."""
        if self._prepared is None:
            raise BackboneError(f"The layer {self.name!r} has no SavedModel to save.")
        self._prepared.save_to(path)

    def load_assets(self, path: str) -> None:
        """Check and load the SavedModel in the folder `path`; weights were loaded before."""
        self.attach(prepare(read_saved_model(Path(path))), keep_weights=True)

    def _answer(self, tensors: dict[str, Any], *, training: bool) -> Any:
        if self.endpoint.is_signature:
            return self._loaded.signatures[self.endpoint.name](**tensors)
        function = getattr(self._loaded, self.endpoint.name)
        if not self.endpoint.knows_training:
            return function(*tensors.values())
        learns = training and all(scope.trainable for scope in self.scopes)
        return function(*tensors.values(), training=learns)

    def _measured_outputs(self) -> tuple[Tensor, ...]:
        """Return the outputs with the shapes that inputs of zeros give, or as declared.

        Raises:
            BackboneError: if an output has not one row for each example.
        """
        declared = self.endpoint.outputs
        free = any(None in tensor.shape[1:] for tensor in self.endpoint.inputs)
        if free and all(output.shape for output in declared):
            return declared
        zeros = {
            tensor.name: tf.zeros([2, *(size or 32 for size in tensor.shape[1:])], tensor.dtype)
            for tensor in self.endpoint.inputs
        }
        measured = keras.tree.flatten(self.call(zeros))
        for output, tensor in zip(declared, measured, strict=True):
            if not tensor.shape or tensor.shape[0] != 2:
                raise BackboneError(
                    f"The output {output.name} has the shape {list(tensor.shape)} for 2 examples: "
                    "it does not describe each of them. Pass features= with another."
                )
        return tuple(
            replace(output, shape=(None, *tensor.shape[1:]))
            for output, tensor in zip(declared, measured, strict=True)
        )


def saved_model_layers(layer: keras.Operation) -> list[SavedModelLayer]:
    """Return the SavedModels that a layer or model is or holds."""
    if not isinstance(layer, keras.Layer):
        return []
    return [inner for inner in layer._flatten_layers() if isinstance(inner, SavedModelLayer)]


def _scopes(variables: Iterable[StoredVariable]) -> list[VariableScope]:
    by_scope: dict[str, list[StoredVariable]] = {}
    for variable in variables:
        scope = posixpath.dirname(variable.name) or "variables"
        by_scope.setdefault(scope, []).append(variable)
    return [VariableScope(scope, members) for scope, members in by_scope.items()]


def _leaf(variable: StoredVariable) -> str:
    return posixpath.basename(variable.name)


def _cast(tensor: Any, dtype: str) -> Any:
    return tensor if dtype == "string" else tf.cast(tensor, dtype)
