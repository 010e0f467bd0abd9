"""Open a SavedModel as a Keras model: native layers where that is proven right, else one layer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfinetune.backbones.graph import alone, ordered_nodes
from tfinetune.backbones.saved_model_endpoints import (
    Tensor,
    choose_endpoint,
    find_endpoints,
)
from tfinetune.backbones.saved_model_layer import SavedModelLayer, saved_model_layers
from tfinetune.errors import BackboneError
from tfinetune.security.saved_model import SavedModelFolder, damage_explained, read_saved_model
from tfinetune.security.saved_model_keras import keras_config, rebuild_native
from tfinetune.security.saved_model_loading import load_stored, prepare

# Of the largest number that the SavedModel answers.
TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2

NEEDS_TFINETUNE = (
    "this SavedModel is one custom layer inside the model: loading the fine-tuned `.keras` needs "
    "tfinetune (`import tfinetune.backbones`); the exported SavedModel does not"
)

PROVEN = "rebuilt as native layers, which compute what its own signature does"


@dataclass(frozen=True)
class OpenedSavedModel:
    """A SavedModel as a Keras model.

    Attributes:
        model: of native layers, or around one `SavedModelLayer`.
        era: the TensorFlow that wrote it.
        notes: what was chosen.
        warnings: what the user should know.
    """

    model: keras.Model
    era: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def open_saved_model(
    path: str | Path,
    *,
    tags: str | Iterable[str] | None = None,
    endpoint: str | None = None,
    features: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> OpenedSavedModel:
    """Open the SavedModel in the folder `path`.

    Args:
        path: folder that holds `saved_model.pb`.
        tags: of the graph, where there are several.
        endpoint: function or signature to call.
        features: outputs to use, where there are several.
        image_size: (height, width) where the SavedModel takes images of any size.
        custom_objects: name -> class that native layers may be made of beside Keras's own.

    Raises:
        UnsafeModelError: if it would read, write or execute something, or exhaust memory.
        BackboneError: if it cannot be opened, or a choice is to be made: the options are listed.
    """
    saved = read_saved_model(path, tags=tags)
    era = f"TensorFlow {saved.tensorflow_version}"
    notes: list[str] = []
    if endpoint is None:
        try:
            with damage_explained(saved.path):
                native = _native(saved, custom_objects)
            if native is not None:
                return OpenedSavedModel(native, era, (PROVEN,))
        except BackboneError as error:
            notes.append(f"stays one layer, since native layers cannot be had: {error}")
    with damage_explained(saved.path):
        layer, model = _as_layer(saved, endpoint, features, image_size)
    if tuple(image_size or ()) in [tensor.shape[1:3] for tensor in layer.endpoint.inputs]:
        notes.append(f"opened for images of {image_size[0]}x{image_size[1]}")
    outputs = ", ".join(output.name for output in layer.endpoint.outputs)
    notes.append(f"called at its endpoint {layer.endpoint.name}, output {outputs}")
    warnings = [NEEDS_TFINETUNE]
    if not layer.trainable_weights:
        warnings.append("it has no variables that train: only the head on it can be fitted")
    return OpenedSavedModel(model, era, tuple(notes), tuple(warnings))


def _as_layer(
    saved: SavedModelFolder,
    endpoint: str | None,
    features: Sequence[str],
    image_size: tuple[int, int] | None,
) -> tuple[SavedModelLayer, keras.Model]:
    """Return one endpoint of a SavedModel as a layer, and a model around that."""
    prepared = prepare(saved)
    endpoints = find_endpoints(prepared.meta_graph)
    chosen = choose_endpoint(endpoints, endpoint, features, source=str(saved.path))
    inputs = tuple(_sized(tensor, image_size, source=str(saved.path)) for tensor in chosen.inputs)
    layer = SavedModelLayer(endpoint=replace(chosen, inputs=inputs), name="saved_model")
    layer.attach(prepared)
    tensors = {
        tensor.name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name)
        for tensor in inputs
    }
    given = alone(list(tensors.values()))
    answer = layer(tensors if len(tensors) > 1 else given)
    return layer, keras.Model(given, answer, name="saved_model_backbone")


def _native(
    saved: SavedModelFolder, custom_objects: Mapping[str, Any] | None
) -> keras.Model | None:
    """Return a Keras 2 SavedModel as native layers, having compared the two; else None.

    Raises:
        BackboneError: if it cannot be rebuilt, or computes something else.
    """
    config = keras_config(saved)
    if config is None:
        return None
    with load_stored(saved) as loaded:
        if "serving_default" not in loaded.signatures:
            raise BackboneError("it has no signature to compare them with")
        model = rebuild_native(saved, loaded, config, custom_objects=custom_objects)
        _check_parity(model, loaded.signatures["serving_default"])
    return model


def _check_parity(model: keras.Model, signature: Any) -> None:
    """Compare a rebuilt model with the SavedModel's own signature, on noise.

    Raises:
        BackboneError: if they differ by more than rounding.
    """
    random = np.random.default_rng(0)
    _, arguments = signature.structured_input_signature
    given = {name: _noise(spec, random) for name, spec in arguments.items()}
    answers = signature(**given)
    inputs = _in_order(given, [tensor.name for tensor in model.inputs])
    structure = getattr(model, "_functional", model).input
    outputs = model(keras.tree.pack_sequence_as(structure, inputs), training=False)
    expected = _in_order(answers, getattr(model, "output_names", []))
    half = any("16" in layer.compute_dtype for layer in model._flatten_layers())
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    for one, other in zip(expected, keras.tree.flatten(outputs), strict=True):
        one, other = np.asarray(one, "float32"), np.asarray(other, "float32")
        difference = float(np.max(np.abs(one - other)))
        if not difference <= tolerance * max(float(np.max(np.abs(one))), 1e-3):
            raise BackboneError(f"they compute something else (by {difference:.2g})")


def _in_order(by_name: dict[str, Any], names: list[str]) -> list[Any]:
    if len(by_name) == 1:
        return list(by_name.values())
    if set(names) != set(by_name):
        raise BackboneError(f"{', '.join(by_name)} cannot be told apart in them")
    return [by_name[name] for name in names]


def _noise(spec: tf.TensorSpec, random: np.random.Generator) -> tf.Tensor:
    shape = [3, *(size or 32 for size in spec.shape[1:])]
    if spec.dtype == tf.string:
        return tf.fill(shape, "a")
    integers = spec.dtype.is_integer
    values = random.integers(0, 2, shape) if integers else random.normal(size=shape)
    return tf.cast(values, spec.dtype)


def without_head(model: keras.Model) -> keras.Model:
    """Return the part of a model up to the SavedModel inside, which is used as it is."""
    features = [node for node in ordered_nodes(model) if saved_model_layers(node.operation)][-1]
    return keras.Model(alone(model.inputs), alone(list(features.outputs)), name=model.name)


def _sized(tensor: Tensor, image_size: tuple[int, int] | None, *, source: str) -> Tensor:
    """Return an input with the image size filled in where it takes any.

    Raises:
        BackboneError: if it does not take a batch of examples.
    """
    shape = tensor.shape
    if not shape or shape[0] is not None:
        raise BackboneError(
            f"{source} takes {tensor}, which is no batch of any number of examples. Choose "
            "another endpoint with endpoint=, or save the model with an input of [None, …]."
        )
    if image_size is not None and len(shape) == 4:
        height, width = image_size
        shape = (None, shape[1] or height, shape[2] or width, shape[3])
    return replace(tensor, shape=shape)
