"""Read the weights of a legacy `.h5` model into a Keras model, every one accounted for.

Legacy files store weights per top-level layer, in an order that depends on which layers were
frozen when the file was written. The names in the file decide between the possible orders, so that
a beta never lands in a gamma of the same shape.
"""

from collections.abc import Iterator

import h5py
import keras
import numpy as np

from tfinetune.errors import BackboneError

# Keras 2 name of a weight -> Keras 3 name.
RENAMED = {"depthwise_kernel": "kernel"}


def load_legacy_weights(model: keras.Model, file: h5py.File) -> None:
    """Assign the weights stored in `file` to `model`, layer by layer in order.

    Raises:
        BackboneError: where counts, names or shapes do not agree.
    """
    stored = list(stored_layers(_weights_group(file)))
    layers = [layer for layer in model.layers if layer.weights]
    if len(stored) != len(layers):
        raise BackboneError(
            f"The file stores weights for {len(stored)} layers; its architecture has "
            f"{len(layers)} with weights. The file is incomplete: save the model again."
        )
    for layer, (name, arrays) in zip(layers, stored, strict=True):
        assign(layer, arrays, stored_as=name)
    finalize(model)


def load_matching_weights(model: keras.Model, file: h5py.File) -> None:
    """Assign to `model` its part of the weights stored in `file`, which may have a top as well.

    Layers are matched by name where all names agree, otherwise in order.

    Raises:
        BackboneError: unless every weight of the model finds its value and all that is left over
            follows the last match, as a top does. (Every layer name of ResNet50 occurs in
            ResNet101 too.)
    """
    stored = list(stored_layers(_weights_group(file)))
    layers = [layer for layer in model.layers if layer.weights]
    head = dict(stored[: len(layers)])
    if len(head) < len(layers):
        raise BackboneError(
            f"The weights file stores {len(stored)} layers; {model.name} has {len(layers)} with "
            "weights. It belongs to another architecture."
        )
    names = [layer.name for layer in layers]
    if set(names) & {name for name, _ in stored[len(layers) :]}:
        other = next(name for name in head if name not in names)
        raise BackboneError(
            f"The weights file holds a layer {other!r} that {model.name} does not have. It "
            "belongs to another architecture."
        )
    order = names if set(names) == set(head) else list(head)
    for layer, name in zip(layers, order, strict=True):
        assign(layer, head[name], stored_as=name)
    finalize(model)


def _weights_group(file: h5py.File) -> h5py.Group:
    group = file.get("model_weights", file)
    backend = group.attrs.get("backend", b"tensorflow")
    if backend in (b"theano", "theano"):
        raise BackboneError(
            "The weights were saved by Keras on Theano, whose convolution kernels are mirrored. "
            "Convert them with Keras 2 on TensorFlow first."
        )
    return group


def stored_layers(group: h5py.Group) -> Iterator[tuple[str, list[tuple[str, np.ndarray]]]]:
    """Yield `(layer name, [(weight name, array)])` of each stored layer that has weights."""
    for name in _names(group, "layer_names"):
        layer = group[name]
        arrays = [(weight, np.asarray(layer[weight])) for weight in _names(layer, "weight_names")]
        if arrays:
            yield name, arrays


def assign(layer: keras.Layer, arrays: list[tuple[str, np.ndarray]], *, stored_as: str) -> None:
    """Assign `arrays` to the weights of `layer` (a plain layer or a whole nested model).

    Raises:
        BackboneError: if no known order of the layer's weights agrees with the arrays' names and
            shapes.
    """
    wanted = [(_leaf(name), array.shape) for name, array in arrays]
    for variables in _orders(layer):
        if [(_leaf(v.name), tuple(v.shape)) for v in variables] == wanted:
            for variable, (_, array) in zip(variables, arrays, strict=True):
                variable.assign(array)
            return
    expected = [(v.name, tuple(v.shape)) for v in layer.weights]
    raise BackboneError(
        f"The weights stored for layer {stored_as!r} do not fit it: the file holds "
        f"{_summary(wanted)}; the layer needs {_summary(expected)}."
    )


def finalize(model: keras.Model) -> None:
    """Let preprocessing layers take over assigned weights; without it they use old statistics."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            layer.finalize_state()


def _orders(layer: keras.Layer) -> Iterator[list[keras.Variable]]:
    yield layer.trainable_weights + layer.non_trainable_weights
    yield layer.weights
    leaves = [v for v in layer.weights if v.trainable]
    yield leaves + [v for v in layer.weights if not v.trainable]


def _names(node: h5py.Group, attribute: str) -> list[str]:
    """Return a list-of-names attribute, which is split into numbered parts when it is long.

    Raises:
        BackboneError: if a name occurs twice, which decides nothing.
    """
    if attribute in node.attrs:
        parts = [node.attrs[attribute]]
    else:
        parts = []
        while f"{attribute}{len(parts)}" in node.attrs:
            parts.append(node.attrs[f"{attribute}{len(parts)}"])
    names = [n.decode("utf-8") if isinstance(n, bytes) else str(n) for part in parts for n in part]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BackboneError(f"The weights file is damaged: it lists {twice!r} twice.")
    return names


def _leaf(name: str) -> str:
    leaf = name.rpartition("/")[2].partition(":")[0]
    return RENAMED.get(leaf, leaf)


def _summary(weights: list[tuple[str, tuple[int, ...]]]) -> str:
    shown = ", ".join(f"{name} {list(shape)}" for name, shape in weights[:4])
    return f"{len(weights)} weights ({shown}{', …' if len(weights) > 4 else ''})"
