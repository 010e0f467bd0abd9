"""A model's fingerprint: equal for models that compute the same in the same way, in any process."""

import hashlib
import json
import uuid
from typing import Any

import keras
import numpy as np
from keras import ops

from tfinetune.backbones.graph import is_functional, ordered_nodes

# What has no influence on the output of a built layer in inference mode.
_IRRELEVANT = ("name", "trainable", "seed", "registered_name")
_IRRELEVANT_ENDINGS = ("_initializer", "_regularizer", "_constraint")


def model_fingerprint(model: keras.Model) -> str:
    """Return the SHA-256 over a functional model's operations, their wiring and their weights.

    Names do not count: Keras numbers them through a process.
    """
    digest = hashlib.sha256()
    _add(digest, model)
    return digest.hexdigest()


def _add(digest: Any, model: keras.Model) -> None:
    tensors = {id(tensor): index for index, tensor in enumerate(model.inputs)}
    operations: dict[int, int] = {}
    for node in ordered_nodes(model):
        if node.is_input:
            tensor = node.outputs[0]
            _write(digest, "input", tensors[id(tensor)], tensor.shape, tensor.dtype)
            continue
        operation = node.operation
        if id(operation) not in operations:
            operations[id(operation)] = len(operations)
            _add_operation(digest, operation)
        arguments = keras.tree.map_structure(
            lambda value: _argument(value, tensors), (node.arguments.args, node.arguments.kwargs)
        )
        _write(digest, "call", operations[id(operation)], arguments)
        for tensor in node.outputs:
            tensors[id(tensor)] = len(tensors)
    _write(digest, "outputs", [tensors[id(tensor)] for tensor in model.outputs])


def _add_operation(digest: Any, operation: keras.Operation) -> None:
    _write(digest, type(operation).__module__, type(operation).__qualname__)
    if is_functional(operation):
        _add(digest, operation)
        return
    try:
        config = _relevant(operation.get_config())
    except NotImplementedError:  # nothing is known of it: it equals nothing but itself
        config = uuid.uuid4().hex
    digest.update(json.dumps(config, sort_keys=True, default=_plain).encode())
    for variable in getattr(operation, "variables", ()):
        if variable.name != "seed_generator_state":
            array = ops.convert_to_numpy(variable)
            _write(digest, array.shape, array.dtype.name)
            digest.update(np.ascontiguousarray(array).view(np.uint8))


def _argument(value: Any, tensors: dict[int, int]) -> Any:
    if isinstance(value, keras.KerasTensor):
        return ("tensor", tensors[id(value)])
    return _plain(value) if hasattr(value, "shape") else value


def _relevant(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: _relevant(value)
            for key, value in config.items()
            if key not in _IRRELEVANT and not str(key).endswith(_IRRELEVANT_ENDINGS)
        }
    if isinstance(config, list | tuple):
        return [_relevant(value) for value in config]
    return config


def _plain(value: Any) -> Any:
    if hasattr(value, "shape"):  # the `repr` of a long array leaves out its middle
        return ops.convert_to_numpy(value).tolist()
    return repr(value)


def _write(digest: Any, *values: Any) -> None:
    digest.update(repr(values).encode() + b"\n")
