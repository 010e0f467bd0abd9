"""Find where a model stops describing the image and starts naming classes.

The rule is structural. The features are the last bottleneck that still has positions (a map or a
row of tokens); what collapses it (global pooling, flattening, reshaping) and all that follows is
the top. Two exceptions: where no weights follow the collapse but a softmax does, the convolution
before it is the classifier (SqueezeNet, mini-Xception); where nothing but the input has positions
(an MLP), only the last weighted layer is the classifier. What takes no image (tables, sequences,
texts, several inputs) has no such map: there a dense layer at the very end is the top. Of several
outputs the features are what they share.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from tfinetune.backbones.graph import Bottleneck, bottlenecks, has_kernel
from tfinetune.errors import BackboneError

_CLASS_ACTIVATIONS = (keras.activations.softmax, keras.activations.sigmoid)
_INACTIVE_LAYERS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
    keras.layers.Identity,
    keras.layers.ActivityRegularization,
)


@dataclass(frozen=True)
class Cut:
    """Where a model's features are: the tensors, and a sentence about what was removed."""

    tensors: tuple[keras.KerasTensor, ...]
    note: str


def named_features(model: keras.Model, names: Sequence[str]) -> Cut:
    """Return the outputs of the layers that the user names, as features.

    Raises:
        BackboneError: if there is no layer of that name.
    """
    layers = {operation.name: operation for operation in model.operations}
    for name in names:
        if name not in layers:
            closest = difflib.get_close_matches(name, layers, n=3) or list(layers)[-3:]
            raise BackboneError(
                f"{model.name} has no layer {name!r} to take features from. Closest: "
                f"{', '.join(closest)}."
            )
    tensors = tuple(keras.tree.flatten(layers[name].output)[0] for name in names)
    return Cut(tensors, f"features are the output of {', '.join(names)}, as asked")


def find_features(model: keras.Model) -> Cut:
    """Return the feature tensors of a flat functional model.

    Raises:
        BackboneError: if nothing with weights lies before the top.
    """
    chain = bottlenecks(model)
    if len(model.outputs) > 1:
        return _shared_features(model, chain)
    end = len(chain) - 1
    index = _features_index(chain) if takes_image(model) else _before_last_dense(chain)
    while 0 < index < end and isinstance(chain[index].operation, _INACTIVE_LAYERS):
        index -= 1
    if not any(_has_kernel(step) for step in chain[: index + 1]):
        raise BackboneError(
            f"The model {model.name!r} has no layer with weights before its classifier, so there "
            "is no feature to transfer. Choose a deeper model."
        )
    if index == end:
        return Cut((model.outputs[0],), "no classification top found: the model is used whole")
    removed = [op.name for step in chain[index + 1 :] for op in step.operations]
    named = ", ".join(removed[:4]) + (", …" if len(removed) > 4 else "")
    return Cut(
        (chain[index].tensor,),
        f"cut after {chain[index].operation.name}: removed {len(removed)} "
        f"{'layer' if len(removed) == 1 else 'layers'} of the top ({named})",
    )


def takes_image(model: keras.Model) -> bool:
    """Return whether a model's one input is an image: height, width and 1 or 3 channels."""
    shapes = [tensor.shape for tensor in model.inputs]
    return len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][-1] in (1, 3)


def _shared_features(model: keras.Model, chain: list[Bottleneck]) -> Cut:
    names = [tensor._keras_history.operation.name for tensor in model.outputs]
    if any(_has_kernel(step) for step in chain):
        return Cut(
            (chain[-1].tensor,),
            f"cut after {chain[-1].operation.name}: the last that the {len(names)} outputs "
            f"({', '.join(names)}) share",
        )
    return Cut(
        tuple(model.outputs),
        f"the {len(names)} outputs ({', '.join(names)}) share no layer with weights: all are "
        "features",
    )


def _before_last_dense(chain: list[Bottleneck]) -> int:
    """Return the index before a dense layer that nothing with weights follows, else the end."""
    end = len(chain) - 1
    last = max((i for i, step in enumerate(chain) if _has_kernel(step)), default=0)
    is_dense = isinstance(chain[last].operation, keras.layers.Dense) and len(chain[last].nodes) == 1
    return last - 1 if is_dense and any(map(_has_kernel, chain[:last])) else end


def _features_index(chain: list[Bottleneck]) -> int:
    end = len(chain) - 1
    last_kernel = max((i for i, step in enumerate(chain) if _has_kernel(step)), default=0)
    names_classes = any(
        _activates_classes(op) for step in chain[max(last_kernel, 1) :] for op in step.operations
    )
    if len(chain[end].tensor.shape) > 2 and not names_classes:
        return end
    index = max(i for i, step in enumerate(chain) if _has_positions(step.tensor))
    while index < end and _still_a_map(chain[index], chain[index + 1]):
        index += 1
    weighted_after = last_kernel > index
    if not weighted_after and (names_classes or _is_bare_convolution(chain[index])):
        return last_kernel - 1
    if not any(_has_kernel(step) for step in chain[: index + 1]):
        return last_kernel - 1
    return index


def _has_kernel(step: Bottleneck) -> bool:
    return any(has_kernel(operation) for operation in step.operations)


def _has_positions(tensor: keras.KerasTensor) -> bool:
    """Return whether a tensor is a map larger than 1x1 or a row of more than one token."""
    return len(tensor.shape) in (3, 4) and any(size != 1 for size in tensor.shape[1:-1])


def _still_a_map(before: Bottleneck, after: Bottleneck) -> bool:
    """Return whether a 1x1 map was computed by a convolution rather than pooled."""
    if len(after.tensor.shape) != 4 or len(before.tensor.shape) != 4:
        return False
    return _has_kernel(after) or before.tensor.shape[1:-1] == after.tensor.shape[1:-1]


def _activates_classes(operation: keras.Operation) -> bool:
    return (
        isinstance(operation, keras.layers.Softmax)
        or getattr(operation, "activation", None) in _CLASS_ACTIVATIONS
        or type(operation).__name__ == "Softmax"
    )


def _is_bare_convolution(step: Bottleneck) -> bool:
    """Return whether a step is one biased convolution without activation, as class scores are."""
    operation = step.operation
    return (
        isinstance(operation, keras.layers.Conv2D)
        and len(step.nodes) == 1
        and operation.use_bias
        and operation.activation is keras.activations.linear
    )
