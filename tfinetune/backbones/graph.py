"""Read and rebuild functional Keras graphs: inline nested models, find bottlenecks, clone afresh.

A bottleneck is a tensor that every path from the input to the output runs through (a dominator):
the only places where a model can be cut in two.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfinetune.errors import BackboneError, FixedSizeError
from tfinetune.security.loading import check_activations

# Keras runs these in training mode by default, in a plain `model(x)` too: a backbone with one
# would give random features. RandomCrop changes the size and cannot simply be left out.
_AUGMENTATION_PREFIXES = ("Random", "AutoContrast", "AugMix", "CutMix", "MixUp", "RandAugment")
_NEVER_REMOVED = ("RandomCrop",)


@dataclass(frozen=True)
class Bottleneck:
    """A tensor that all paths share, and the nodes computed since the bottleneck before it."""

    tensor: keras.KerasTensor
    nodes: tuple[Any, ...]

    @property
    def operation(self) -> keras.Operation:
        """The operation that made the tensor."""
        return self.tensor._keras_history.operation

    @property
    def operations(self) -> list[keras.Operation]:
        """The operations since the bottleneck before, in order."""
        return [node.operation for node in self.nodes]


def has_kernel(operation: keras.Operation) -> bool:
    """Return whether an operation holds a weight matrix (which scales and biases do not have)."""
    return any(len(weight.shape) > 1 for weight in getattr(operation, "weights", ()))


def ordered_nodes(model: keras.Model) -> list[Any]:
    """Return the nodes (operation calls) of a functional model, inputs first."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in model._nodes_by_depth[depth]]


def bottlenecks(model: keras.Model) -> list[Bottleneck]:
    """Return the bottlenecks of a one-input, one-output functional model, input and output too."""
    nodes = ordered_nodes(model)
    last_use: dict[int, int] = {}
    for position, node in enumerate(nodes):
        for tensor in node.input_tensors:
            last_use[id(tensor)] = position
    last_use[id(model.outputs[0])] = len(nodes)
    found: list[Bottleneck] = []
    since: list[Any] = []
    live: set[int] = set()
    for position, node in enumerate(nodes):
        since.append(node)
        live |= {id(t) for t in node.outputs if last_use.get(id(t), -1) > position}
        live -= {key for key in live if last_use[key] <= position}
        if len(live) == 1:
            (key,) = live
            alone = [tensor for tensor in node.outputs if id(tensor) == key]
            if alone:
                found.append(Bottleneck(alone[0], tuple(since)))
                since = []
    return found


def is_functional(model: keras.Model) -> bool:
    """Return whether Keras knows the model's graph (Functional or Sequential, not subclassed)."""
    return isinstance(model, keras.Sequential | keras.Function)


def flatten(model: keras.Model, *, image_size: tuple[int, int]) -> keras.Model:
    """Return a functional model without nested models or in-model augmentation.

    Layers are shared with `model` where nothing had to be inlined, otherwise they are copies with
    unique names on an input of `image_size` (height, width); `model` itself is not changed.

    Raises:
        BackboneError: if the result computes something else than `model`.
        FixedSizeError: if a nested model does not allow `image_size`.
        UnsafeModelError: if an activation would be immense at `image_size`.
    """
    if not _needs_inlining(model):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    copies = _Copies()
    with _explained(image_size):
        flat = _inline(model, copies, image_size)
        copies.transfer_weights()
    check_activations(flat, source=model.name)
    if not augmentation_layers(model):
        check_equal(model, flat, what="Inlining the nested models")
    return flat


def augmentation_layers(model: keras.Model) -> list[str]:
    """Return the names of random augmentation layers anywhere in the model."""
    return [layer.name for layer in model._flatten_layers() if _is_augmentation(layer)]


def rebuild(model: keras.Model, *, image_size: tuple[int, int]) -> keras.Model:
    """Clone a flat one-input model onto a new input of `image_size` (height, width).

    Every layer of the clone is fresh, trainable, called at its own nodes only, and named as in
    `model`.

    Raises:
        FixedSizeError: if a layer or its weights depend on the old size.
        UnsafeModelError: if an activation would be immense at `image_size`.
    """
    channels = model.inputs[0].shape[-1]
    inputs = keras.Input((*image_size, channels), dtype=model.inputs[0].dtype, name="image")
    copies = _Copies()
    copies.names["image"] = 1
    with _explained(image_size):
        clone = keras.models.clone_model(model, input_tensors=inputs, clone_function=copies)
        copies.transfer_weights()
    check_activations(clone, source=model.name)
    if any(size == 0 for size in clone.outputs[0].shape[1:]):
        raise FixedSizeError(
            f"At {image_size[0]}x{image_size[1]} nothing is left of the image after this "
            "backbone's strides. Use a larger image size."
        )
    for layer in clone.layers:
        layer.trainable = True
    return clone


@contextlib.contextmanager
def _explained(image_size: tuple[int, int]) -> Iterator[None]:
    """Turn what Keras says of layers that do not fit `image_size` into a FixedSizeError."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise FixedSizeError(
            f"This backbone cannot be rebuilt at {image_size[0]}x{image_size[1]}: "
            f"{' '.join(str(error).split())[:240]} Use its own image size, or one near it."
        ) from error


def check_equal(reference: keras.Model, candidate: keras.Model, *, what: str) -> None:
    """Compare two models on noise, of the image size of `candidate`.

    Raises:
        BackboneError: if their outputs differ by more than rounding, or tell nothing.
    """
    height, width, channels = candidate.inputs[0].shape[1:]
    noise = np.random.default_rng(0).uniform(-1, 1, (1, height, width, channels))
    noise = noise.astype("float32")
    expected, received = (_first_output(model, noise) for model in (reference, candidate))
    if not expected.size or not np.isfinite(expected).all():
        raise BackboneError(
            f"For images of {height}x{width} this backbone's output is empty or not finite. Use a "
            "larger image size, or another copy of the model if its weights are damaged."
        )
    difference = float(np.max(np.abs(expected - received)))
    if not difference <= 1e-3 * max(float(np.max(np.abs(expected))), 1e-3):
        raise BackboneError(
            f"{what} changed what this backbone computes (by {difference:.2g}). Save it as a flat "
            "functional model of stock layers and try again."
        )


def _first_output(model: keras.Model, images: np.ndarray) -> np.ndarray:
    outputs = model(_wrapped(model, images), training=False)
    return np.asarray(keras.tree.flatten(outputs)[0], "float32")


def _wrapped(model: keras.Model, tensor: Any) -> Any:
    """Return `tensor` in the list or dict, if any, that a one-input model takes it in."""
    if isinstance(model, keras.Sequential):
        return tensor
    return keras.tree.map_structure(lambda _: tensor, model.input)


class _Copies:
    """Makes fresh layers with unique names and remembers what each was copied from."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self._made: dict[int, tuple[keras.Operation, keras.Operation]] = {}

    def __call__(self, operation: keras.Operation) -> keras.Operation:
        if id(operation) not in self._made:
            config = operation.get_config()
            config["name"] = self._unique(operation.name)
            self._made[id(operation)] = (operation, type(operation).from_config(config))
        return self._made[id(operation)][1]

    def transfer_weights(self) -> None:
        for old, new in self._made.values():
            if isinstance(old, keras.Layer) and old.weights:
                new.set_weights(old.get_weights())
                if isinstance(new, keras.layers.Normalization):
                    new.finalize_state()

    def _unique(self, name: str) -> str:
        name = name.replace("/", "_")
        self.names[name] += 1
        if self.names[name] == 1:
            return name
        return self._unique(f"{name}_{self.names[name] - 1}")


def _is_augmentation(layer: keras.Layer) -> bool:
    kind = type(layer).__name__
    return (
        isinstance(layer, keras.layers.Layer)
        and type(layer).__module__.startswith("keras.")
        and kind.startswith(_AUGMENTATION_PREFIXES)
        and kind not in _NEVER_REMOVED
    )


def _needs_inlining(model: keras.Model) -> bool:
    return any(is_functional(layer) or _is_augmentation(layer) for layer in model.layers)


def _inline(model: keras.Model, copies: _Copies, image_size: tuple[int, int]) -> keras.Model:
    def keep(operation: keras.Operation) -> keras.Operation:
        return operation if is_functional(operation) else copies(operation)

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if isinstance(operation, keras.layers.InputLayer) or _is_augmentation(operation):
            return args[0]
        if isinstance(operation, keras.Sequential):
            return call_in_turn(operation, args[0])
        if isinstance(operation, keras.Function):
            # What clone_model does; calling the model itself would leave conversion ops behind.
            return operation._run_through_graph(args[0], operation_fn=keep, call_fn=call)
        return operation(*args, **kwargs)

    def call_in_turn(sequential: keras.Sequential, tensor: Any) -> Any:
        for layer in sequential.layers:
            tensor = call(keep(layer), tensor)
        return tensor

    channels = model.inputs[0].shape[-1]
    inputs = keras.Input((*image_size, channels), dtype=model.inputs[0].dtype)
    outputs = keras.tree.flatten(call(model, _wrapped(model, inputs)))
    return keras.Model(inputs, outputs[0], name=model.name)
