"""Rebuild a Keras 2 SavedModel as native Keras 3 layers: its config, its variables.

Keras 2 wrote the model's config beside the graph: in `keras_metadata.pb` since TensorFlow 2.5, in
the object graph before, in `assets/saved_model.json` under TensorFlow 1.
"""

import json
import math
import posixpath
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.python.keras.protobuf.saved_metadata_pb2 import SavedMetadata

from tfinetune.errors import BackboneError
from tfinetune.security.legacy_layouts import known_name
from tfinetune.security.legacy_weights import finalize
from tfinetune.security.loading import build_model
from tfinetune.security.saved_model import MAX_CONFIG_BYTES, SavedModelFolder, read_bounded


def keras_config(saved: SavedModelFolder) -> dict[str, Any] | None:
    """Return the config that Keras 2 wrote into a SavedModel, or None if it did not write it.

    Raises:
        BackboneError: if it is damaged.
    """
    try:
        metadata = _metadata(saved)
        config = json.loads(metadata, object_hook=_without_tuples) if metadata else None
    except (DecodeError, KeyError, ValueError, RecursionError) as error:
        raise BackboneError(f"The Keras config in {saved.path} is damaged: {error}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
        return None
    return config


def rebuild_native(
    saved: SavedModelFolder,
    loaded: Any,
    config: dict[str, Any],
    *,
    custom_objects: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Return the model that `config` describes with the variables of the SavedModel.

    Args:
        saved: what was checked.
        loaded: the same, loaded by TensorFlow.
        config: what `keras_config` returned.
        custom_objects: name -> class that it may use beside Keras's own.

    Raises:
        BackboneError: if Keras 3 has not all of its layers, or its variables do not fit.
        UnsafeModelError: if the config names code, or more weights than there are.
    """
    variables = [v for v in loaded.variables if isinstance(v, tf.Variable)]
    model = build_model(
        {key: config[key] for key in ("class_name", "config")},
        source=saved.path,
        stored_elements=sum(math.prod(variable.shape) for variable in variables),
        custom_objects=custom_objects,
    )
    weights = [weight for weight in model.weights if weight.name != "seed_generator_state"]
    for weight, variable in zip(weights, _in_order_of(weights, variables), strict=True):
        weight.assign(variable)
    finalize(model)
    return model


def _metadata(saved: SavedModelFolder) -> str | bytes | None:
    since_tensorflow_2_5 = saved.path / "keras_metadata.pb"
    if since_tensorflow_2_5.is_file():
        content = read_bounded(since_tensorflow_2_5, MAX_CONFIG_BYTES)
        nodes = SavedMetadata.FromString(content).nodes
        return next((node.metadata for node in nodes if node.node_path == "root"), None)
    if saved.has_objects:
        return saved.meta_graph.object_graph_def.nodes[0].user_object.metadata
    tensorflow_1 = saved.path / "assets" / "saved_model.json"
    return read_bounded(tensorflow_1, MAX_CONFIG_BYTES) if tensorflow_1.is_file() else None


def _without_tuples(value: dict[str, Any]) -> Any:
    """Return the list in what this one format of Keras writes for a tuple or a shape."""
    return value["items"] if value.get("class_name") in ("__tuple__", "TensorShape") else value


def _in_order_of(weights: list[keras.Variable], variables: list[tf.Variable]) -> list[tf.Variable]:
    """Return `variables` in the order of `weights`: by name, or as they come.

    TensorFlow 1 lists them in the order in which they were made, and the optimizer's as well;
    under TensorFlow 2 names repeat between nested models, but both list them alike.

    Raises:
        BackboneError: if neither way gives every weight one of its shape.
    """
    by_name = {_key(variable.name.partition(":")[0]): variable for variable in variables}
    named = [by_name.get(_key(weight.path)) for weight in weights]
    for found in (named, variables):
        shapes = [None if variable is None else tuple(variable.shape) for variable in found]
        if shapes == [tuple(weight.shape) for weight in weights] and len(set(map(id, found))) == (
            len(found)
        ):
            return found
    raise BackboneError(
        f"its {len(variables)} variables do not fit the {len(weights)} weights of its config"
    )


def _key(name: str) -> tuple[str, str | None]:
    return posixpath.basename(posixpath.dirname(name)), known_name(name)
