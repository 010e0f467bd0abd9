"""Read and rebuild functional Keras graphs: inline nested models, find bottlenecks, clone afresh.

A bottleneck is a tensor that every path from the input to the output runs through (a dominator):
the only places where a model can be cut in two.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
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
    """Return the bottlenecks of a functional model; the input and the output if there is but one.

    Of several outputs only what they share can be one.
    """
    nodes = ordered_nodes(model)
    last_use: dict[int, int] = {}
    for position, node in enumerate(nodes):
        for tensor in node.input_tensors:
            last_use[id(tensor)] = position
    last_use.update({id(tensor): len(nodes) for tensor in model.outputs})
    found: list[Bottleneck] = []
    since: list[Any] = []
    # All inputs are there from the start: none may come in behind a bottleneck.
    live: set[int] = {id(tensor) for tensor in model.inputs}
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


def flatten(model: keras.Model, *, image_size: tuple[int, int] | None = None) -> keras.Model:
    """Return a functional model without nested models or in-model augmentation.

    Layers are shared with `model` where nothing had to be inlined, otherwise they are copies with
    unique names on inputs like the model's, or of `image_size` (height, width); `model` itself is
    not changed.

    Raises:
        BackboneError: if the result computes something else than `model`.
        FixedSizeError: if a nested model does not allow `image_size`.
        UnsafeModelError: if an activation would be immense at `image_size`.
    """
    if not _needs_inlining(model):
        return keras.Model(alone(model.inputs), alone(model.outputs), name=model.name)
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


def rebuild(model: keras.Model, *, image_size: tuple[int, int] | None = None) -> keras.Model:
    """Clone a flat model onto new inputs like its own, or one of `image_size` (height, width).

    Every layer of the clone is fresh, trainable, called at its own nodes only, and named as in
    `model`.

    Raises:
        FixedSizeError: if a layer or its weights depend on the old size.
        UnsafeModelError: if an activation would be immense at `image_size`.
    """
    copies = _Copies()
    inputs = _new_inputs(model, image_size)
    copies.names.update(tensor.name for tensor in inputs)
    with _explained(image_size):
        clone = keras.models.clone_model(model, input_tensors=alone(inputs), clone_function=copies)
        copies.transfer_weights()
    check_activations(clone, source=model.name)
    if image_size and any(size == 0 for size in clone.outputs[0].shape[1:]):
        raise FixedSizeError(
            f"At {image_size[0]}x{image_size[1]} nothing is left of the image after this "
            "backbone's strides. Use a larger image size."
        )
    for layer in clone.layers:
        layer.trainable = True
    return clone


def detach(model: keras.Model) -> keras.Model:
    """Make the layers of a flat model its own, by forgetting where else they were called.

    Cheaper than `rebuild`, for layers that nobody else holds. Every layer trains afterwards.
    """
    kept = {id(node) for node in ordered_nodes(model)}
    for operation in model.operations:
        operation._inbound_nodes = [n for n in operation._inbound_nodes if id(n) in kept]
        operation._outbound_nodes = [n for n in operation._outbound_nodes if id(n) in kept]
    for layer in model.layers:
        layer.trainable = True
    return model


def alone(tensors: Sequence[Any]) -> Any:
    """Return the only one of some tensors, or all: what Keras then gives back the same way."""
    return tensors[0] if len(tensors) == 1 else tensors


def _new_inputs(model: keras.Model, image_size: tuple[int, int] | None) -> list[keras.KerasTensor]:
    if image_size:
        (old,) = model.inputs
        return [keras.Input((*image_size, old.shape[-1]), dtype=old.dtype, name="image")]
    return [keras.Input(old.shape[1:], dtype=old.dtype, name=old.name) for old in model.inputs]


@contextlib.contextmanager
def _explained(image_size: tuple[int, int] | None) -> Iterator[None]:
    """Turn what Keras says of layers that do not fit `image_size` into a FixedSizeError."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if image_size is None:
            raise BackboneError(
                f"This backbone cannot be rebuilt: {' '.join(str(error).split())[:240]}"
            ) from error
        raise FixedSizeError(
            f"This backbone cannot be rebuilt at {image_size[0]}x{image_size[1]}: "
            f"{' '.join(str(error).split())[:240]} Use its own image size, or one near it."
        ) from error


def check_equal(reference: keras.Model, candidate: keras.Model, *, what: str) -> None:
    """Compare two models on noise, in the shapes that `candidate` takes.

    Raises:
        BackboneError: if their outputs differ by more than rounding, or tell nothing.
    """
    noise = sample_inputs(candidate)
    expected, received = (_outputs(model, noise) for model in (reference, candidate))
    _check_finite(expected, noise)
    for before, after in zip(expected, received, strict=True):
        difference = float(np.max(np.abs(before - after)))
        if not difference <= 1e-3 * max(float(np.max(np.abs(before))), 1e-3):
            raise BackboneError(
                f"{what} changed what this backbone computes (by {difference:.2g}). Save it as a "
                "flat functional model of stock layers and try again."
            )


def check_weights(model: keras.Model) -> None:
    """Look for numbers that no training leaves, in a quarter of the time of running the model.

    Raises:
        BackboneError: if a weight is not finite, or a variance negative.
    """
    for variable in model.variables:
        if not variable.dtype.startswith(("float", "bfloat")):
            continue
        values = np.asarray(variable, "float32")
        negative = variable.path.endswith("moving_variance") and (values < 0).any()
        if negative or not np.isfinite(values).all():
            raise BackboneError(
                f"The weights {variable.path} of this backbone are damaged: they hold "
                f"{'a negative variance' if negative else 'what is no finite number'}. Take "
                "another copy of the model."
            )


def _check_finite(outputs: list[np.ndarray], inputs: list[np.ndarray]) -> None:
    if all(output.size and np.isfinite(output).all() for output in outputs):
        return
    shapes = ", ".join("x".join(map(str, value.shape[1:])) for value in inputs)
    raise BackboneError(
        f"For inputs of {shapes} this backbone's output is empty or not finite. Use a larger image "
        "size, or another copy of the model if its weights are damaged."
    )


def sample_inputs(model: keras.Model) -> list[np.ndarray]:
    """Return one made-up example for each input, of values that its layers can take.

    Sizes that the model leaves open are 32. Indices (what an integer input or an embedding takes)
    are 0 or 1, texts are a few words, everything else is noise in [-1, 1].
    """
    random = np.random.default_rng(0)
    looks_up = any(isinstance(layer, _LOOKUPS) for layer in model._flatten_layers())
    samples = []
    for tensor in model.inputs:
        shape = (1, *(size or 32 for size in tensor.shape[1:]))
        if tensor.dtype == "string":
            samples.append(np.full(shape, "the quick brown fox", dtype=object))
        elif looks_up or not tensor.dtype.startswith(("float", "bfloat")):
            samples.append(random.integers(0, 2, shape).astype(tensor.dtype))
        else:
            samples.append(random.uniform(-1, 1, shape).astype("float32"))
    return samples


_LOOKUPS = (
    keras.layers.Embedding,
    keras.layers.CategoryEncoding,
    keras.layers.IntegerLookup,
)


def _outputs(model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs = model(
        _packed(model, [keras.ops.convert_to_tensor(i) for i in inputs]), training=False
    )
    return [np.asarray(output, "float32") for output in keras.tree.flatten(outputs)]


def _packed(model: keras.Model, tensors: list[Any]) -> Any:
    """Return `tensors` in the structure (alone, list, dict) that a model takes its inputs in."""
    if isinstance(model, keras.Sequential):
        return tensors[0]
    return keras.tree.pack_sequence_as(model.input, tensors)


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


def _inline(model: keras.Model, copies: _Copies, image_size: tuple[int, int] | None) -> keras.Model:
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

    inputs = _new_inputs(model, image_size)
    outputs = keras.tree.flatten(call(model, _packed(model, inputs)))
    return keras.Model(alone(inputs), alone(outputs), name=model.name)
