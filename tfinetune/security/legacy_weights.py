"""Read the weights of a legacy `.h5` model into a Keras model, every one accounted for.

Legacy files store weights per top-level layer, in an order that depends on which layers were
frozen when the file was written. The names in the file decide between the possible orders, so that
a beta never lands in a gamma of the same shape.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import h5py
import keras
import numpy as np

from tfinetune.errors import BackboneError
from tfinetune.security.legacy_layouts import (
    Stored,
    is_channels_first,
    join_gates,
    known_name,
    to_keras_3,
)

# The weight of an adapted Discretization layer, which in Keras 3 has none.
_SUMMARY = "summary"


@dataclass(frozen=True)
class Match:
    """What a weights file gave a model.

    Attributes:
        weights: how many weights of the model got a value from the file.
        total: how many it has.
        missing: layers of the model that the file has nothing for.
        unused: layers of the file that the model has no place for.
        how: "by name" or "in order".
        theano: whether the kernels were mirrored back from Theano's convention.
    """

    weights: int
    total: int
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    how: str = "in order"
    theano: bool = False

    def describe(self) -> str:
        """Return one sentence for people."""
        count = f"all {self.total}" if self.weights == self.total else f"{self.weights} of"
        if self.weights < self.total:
            count += f" {self.total}"
        text = f"{count} weights, layers matched {self.how}"
        if self.theano:
            text += "; kernels turned from Theano's convention"
        if self.missing:
            text += f"; left as they were: {_listed(self.missing)}"
        if self.unused:
            text += f"; not used: {_listed(self.unused)}"
        return text


def load_legacy_weights(model: keras.Model, file: h5py.File) -> None:
    """Assign the weights stored in `file` to `model`, layer by layer in order.

    Raises:
        BackboneError: where counts, names or shapes do not agree.
    """
    group = _weights_group(file)
    stored, summaries = [], []
    for name, arrays in stored_layers(group):
        weights = [item for item in arrays if known_name(item[0]) != _SUMMARY]
        summaries += [array for key, array in arrays if known_name(key) == _SUMMARY]
        if weights:
            stored.append((name, weights))
    layers = [layer for layer in model.layers if layer.weights]
    if len(stored) != len(layers):
        raise BackboneError(
            f"The file stores weights for {len(stored)} layers; its architecture has "
            f"{len(layers)} with weights. The file is incomplete: save the model again."
        )
    theano = _is_theano(group, zip(layers, (arrays for _, arrays in stored), strict=True))
    for layer, (name, arrays) in zip(layers, stored, strict=True):
        assign(layer, arrays, stored_as=name, theano=theano)
    restore_bins(model, summaries)
    finalize(model)


def load_matching_weights(model: keras.Model, file: h5py.File, *, partial: bool = False) -> Match:
    """Assign to `model` its part of the weights stored in `file`, which may have a top as well.

    Layers are matched by name where all names agree, otherwise in order. With `partial`, layers
    whose names agree are filled and the others stay as they are.

    Raises:
        BackboneError: unless every weight of the model finds its value and all that is left over
            follows the last match, as a top does (every layer name of ResNet50 occurs in
            ResNet101 too); with `partial`, if nothing matches at all.
    """
    group = _weights_group(file)
    stored = {_plain_name(name): arrays for name, arrays in stored_layers(group)}
    layers = {_plain_name(layer.name): layer for layer in model.layers if layer.weights}
    if partial:
        pairs = {name: name for name in layers if name in stored}
        if not pairs:
            raise BackboneError(
                f"No layer of {model.name} has the name of a layer in the weights file. The file "
                f"has {_listed(tuple(stored))}; the model {_listed(tuple(layers))}."
            )
    else:
        pairs = _complete_pairs(model.name, layers, list(stored))
    theano = _is_theano(group, ((layers[own], stored[name]) for own, name in pairs.items()))
    for own, name in pairs.items():
        assign(layers[own], stored[name], stored_as=name, theano=theano)
    finalize(model)
    return Match(
        weights=sum(len(layers[own].weights) for own in pairs),
        total=sum(len(layer.weights) for layer in layers.values()),
        missing=tuple(name for name in layers if name not in pairs),
        unused=tuple(name for name in stored if name not in pairs.values()),
        how="by name" if all(own == name for own, name in pairs.items()) else "in order",
        theano=theano,
    )


def _complete_pairs(
    model: str, layers: dict[str, keras.Layer], stored: list[str]
) -> dict[str, str]:
    """Return the stored layer for every layer of the model."""
    head, names = stored[: len(layers)], list(layers)
    if len(head) < len(layers):
        raise BackboneError(
            f"The weights file stores {len(stored)} layers; {model} has {len(layers)} with "
            "weights. It belongs to another architecture. To fill only the layers of equal name, "
            "pass partial_weights=True to load_backbone."
        )
    if set(names) & set(stored[len(layers) :]):
        other = next(name for name in head if name not in names)
        raise BackboneError(
            f"The weights file holds a layer {other!r} that {model} does not have. It "
            "belongs to another architecture."
        )
    order = names if set(names) == set(head) else head
    return dict(zip(names, order, strict=True))


def _weights_group(file: h5py.File) -> h5py.Group:
    return file.get("model_weights", file)


def _is_theano(group: h5py.Group, pairs: Iterable[tuple[keras.Layer, list[Stored]]]) -> bool:
    """Whether convolution kernels are mirrored.

    Keras 2 says so. Keras 1 does not, but it kept Theano's kernels as [out, in, height, width];
    files that were converted to TensorFlow's kernels in that order say it in their names.
    """
    if (backend := group.attrs.get("backend")) is not None:
        return backend in (b"theano", "theano")
    if "tf_kernels" in Path(group.file.filename).name:
        return False
    return any(
        is_channels_first(array, tuple(variable.shape))
        for layer, arrays in pairs
        for variable, (_, array) in zip(layer.weights, arrays, strict=False)
    )


def stored_layers(group: h5py.Group) -> Iterator[tuple[str, list[Stored]]]:
    """Yield `(layer name, [(weight name, array)])` of each stored layer that has weights."""
    for name in _names(group, "layer_names"):
        layer = group[name]
        arrays = [(weight, np.asarray(layer[weight])) for weight in _names(layer, "weight_names")]
        if arrays:
            yield name, join_gates(arrays)


def assign(
    layer: keras.Layer, arrays: list[Stored], *, stored_as: str, theano: bool = False
) -> None:
    """Assign `arrays` to the weights of `layer` (a plain layer or a whole nested model).

    Raises:
        BackboneError: if no known order of the layer's weights agrees with the arrays' names and
            shapes.
    """
    names = [known_name(name) for name, _ in arrays]
    for variables in _orders(layer):
        own = [known_name(variable.name) for variable in variables]
        if len(own) != len(names) or not all(map(_agree, names, own)):
            continue
        values = _values(layer, variables, arrays, theano=theano)
        if all(v.shape == tuple(w.shape) for v, w in zip(values, variables, strict=True)):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            return
    wanted = [(name, array.shape) for name, array in arrays]
    expected = [(v.name, tuple(v.shape)) for v in layer.weights]
    raise BackboneError(
        f"The weights stored for layer {stored_as!r} do not fit it: the file holds "
        f"{_summary(wanted)}; the layer needs {_summary(expected)}."
    )


def _agree(stored: str | None, own: str | None) -> bool:
    return stored == own or stored is None or own is None  # None: it never had a name.


def _values(
    layer: keras.Layer, variables: list[keras.Variable], arrays: list[Stored], *, theano: bool
) -> list[np.ndarray]:
    """Return what each variable gets, from the layout of the file to Keras 3's."""
    owners = {
        id(variable): owner
        for owner in layer._flatten_layers()
        for variable in owner._trainable_variables + owner._non_trainable_variables
    }
    values: list[np.ndarray] = []
    rows = zip(variables, arrays, strict=True)
    for _, group in groupby(rows, key=lambda row: id(owners.get(id(row[0]), layer))):
        members = list(group)
        names, stored = zip(*(item for _, item in members), strict=True)
        owner = owners.get(id(members[0][0]), layer)
        values += to_keras_3(owner, stored, names, theano=theano)
    return values


def restore_bins(model: keras.Model, summaries: list[np.ndarray]) -> None:
    """Give adapted Discretization layers the summaries that Keras 2 stored as their weights."""
    adapted = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Discretization) and layer.bin_boundaries is None
    ]
    for layer, summary in zip(adapted, summaries, strict=True):
        layer.summary = summary
        layer.finalize_state()


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


def _plain_name(name: str) -> str:
    return name.replace("/", "_")  # Keras 3 allows no slash in a layer's name.


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _summary(weights: list[tuple[str, tuple[int, ...]]]) -> str:
    shown = ", ".join(f"{name} {list(shape)}" for name, shape in weights[:4])
    return f"{len(weights)} weights ({shown}{', …' if len(weights) > 4 else ''})"
